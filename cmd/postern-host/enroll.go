package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/internal/control"
)

// maxTokenFile bounds what is read as a token, in bytes.
const maxTokenFile = 16 << 10

func (p program) enroll() *cli.Command {
	return &cli.Command{
		Name:      "enroll",
		Usage:     "make this machine known to a controller with a join token",
		UsageText: "postern-host enroll [--config FILE] [--name NAME] TOKEN|INVITATION|@FILE|-",
		Description: `The token comes from the controller's administrator (postern-controller token
create) and works once; an invitation, postern://..., is the same as a link. Everybody on the machine can read the arguments of a
running program: give the token as @FILE, or - for standard input.

The machine makes its own key, which never leaves it. The identity goes into the
folder that the configuration calls state.

   $ postern-host enroll @/root/join-token
   $ ssh controller postern-controller token create --role host --name web1 | postern-host enroll -`,
		Flags: []cli.Flag{
			configFlag(),
			&cli.StringFlag{
				Name: "name", Usage: "proposed `NAME` of this machine (default: its host name)",
			},
		},
		Action: func(c *cli.Context) error {
			s, err := settings(c)
			if err != nil {
				return err
			}
			token, err := p.token(c.Args().Slice())
			if err != nil {
				return err
			}
			name := c.String("name")
			if name == "" {
				name = ownName()
			}
			e, err := control.Join(c.Context, control.JoinConfig{
				Token: token, Role: control.RoleHost, Folder: s.State, Name: name,
			})
			if err != nil {
				return hintError{fmt.Errorf("enroll: %w", err), joinHint(err)}
			}
			_, err = fmt.Fprintf(p.out, "enrolled as %s (%s) at %s\n",
				e.Name, e.ID, e.Controller.Name)
			return err
		},
	}
}

// token reads the join token from where the argument says.
func (p program) token(args []string) (control.JoinToken, error) {
	if len(args) != 1 {
		return control.JoinToken{}, usageError{fmt.Errorf(
			"enroll: want one TOKEN, @FILE or -, got %d arguments", len(args))}
	}
	text := args[0]
	path, isFile := strings.CutPrefix(text, "@")
	var err error
	switch {
	case text == "-":
		text, err = readToken(p.in)
	case isFile:
		text, err = readTokenFile(path)
	}
	if err != nil {
		return control.JoinToken{}, fmt.Errorf("read join token: %w", err)
	}
	t, err := control.ParseJoinToken(text)
	if err != nil {
		return control.JoinToken{}, usageError{fmt.Errorf("enroll: %w", err)}
	}
	return t, nil
}

func readTokenFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return readToken(f)
}

func readToken(r io.Reader) (string, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxTokenFile))
	return string(b), err
}

// ownName proposes the machine's name as names here are written.
func ownName() string {
	name, err := os.Hostname()
	if err != nil {
		return "host"
	}
	name, _, _ = strings.Cut(strings.ToLower(name), ".")
	return name
}

func joinHint(err error) string {
	switch {
	case errors.Is(err, control.ErrEnrolled):
		return "to enrol anew, remove the host on the controller and move the state folder away"
	case errors.Is(err, control.ErrTokenOver):
		return "ask for a new token: postern-controller token create"
	case errors.Is(err, control.ErrNoAnswer):
		return "nothing is answered to a wrong knock: check this machine's clock (within 90 " +
			"seconds), the controller's address in the token, that UDP gets through, and that " +
			"the token is unused"
	}
	return ""
}
