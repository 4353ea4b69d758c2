package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/client"
	"github.com/postern-sdp/postern/internal/control"
)

// maxTokenFile bounds what is read in search of a join token, in bytes.
const maxTokenFile = 16 << 10

func (p program) enroll() *cli.Command {
	return &cli.Command{
		Name:      "enroll",
		Usage:     "give this device an identity, with an invitation or a join token",
		ArgsUsage: "INVITATION|TOKEN|@FILE|-",
		UsageText: "postern enroll [--profile NAME] [--name NAME] [--json] INVITATION|TOKEN|@FILE|-",
		Description: `Makes a key that never leaves this device, proves it to the controller, and
stores the identity it gets in return. An invitation (postern://...) or join token
(postern-join:...) works once. It is a secret: everybody on this machine can read the
arguments of a running program, so give it in a file, or on standard input (-), where
that matters; and take it out of the shell's history.

   $ postern enroll -                          (paste it, end the line, Ctrl-D)
   $ postern enroll @invitation
   $ zbarcam --raw --oneshot | postern enroll -    (a QR code, before the camera)
   $ postern enroll postern://gate.example/AQFx...

Where this device has an identity already, --profile NAME keeps another one beside it.

   $ postern enroll --profile work -`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "name", Usage: "`NAME` to be known by (default: this machine's)"},
			jsonFlag(),
		},
		Action: p.runEnroll,
	}
}

func (p program) runEnroll(c *cli.Context) error {
	argument, err := only(c, "join token")
	if err != nil {
		return err
	}
	token, err := p.readToken(argument)
	if err != nil {
		return err
	}
	path, name, err := chosen(c)
	if err != nil {
		return err
	}
	stop := p.waiting(controllersAnswer)
	device, err := client.Enroll(c.Context, token, path, c.String("name"),
		client.WithTimeout(c.Duration("timeout")))
	stop()
	if err != nil {
		return explainToken(token, err)
	}
	status := device.Status()
	used, err := useIfFirst(name)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return p.printJSON(statusJSON{Status: status, Profile: name})
	}
	p.sayf("enrolled at %s as %s", status.Controller, status.Name)
	if !used {
		p.hintf("postern --profile %s COMMAND uses it, postern profile use %s makes it the one in use", name, name)
		return nil
	}
	p.hintf("postern services lists what you may reach")
	return nil
}

// readToken reads the token from where the argument says. Errors name files, and
// never what is in them.
func (p program) readToken(argument string) (string, error) {
	var b []byte
	var err error
	path, isFile := strings.CutPrefix(argument, "@")
	switch {
	case argument == "-":
		b, err = io.ReadAll(io.LimitReader(p.in, maxTokenFile))
	case isFile:
		var f *os.File
		if f, err = os.Open(path); err == nil {
			defer f.Close()
			b, err = io.ReadAll(io.LimitReader(f, maxTokenFile))
		}
	default:
		b = []byte(argument)
	}
	if err != nil {
		return "", fmt.Errorf("read join token: %w", err)
	}
	return string(b), nil
}

func explainToken(text string, err error) error {
	token, bad := control.ParseJoinToken(text)
	if bad != nil || !isSilence(err) && !errors.Is(err, client.ErrTokenOver) {
		return err
	}
	return silence{
		error: err, now: time.Now(), knocked: token.Addresses, expires: token.Expires, enrolling: true,
	}
}
