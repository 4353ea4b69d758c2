package main

import (
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/controller/api"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/qrcode"
	"github.com/postern-sdp/postern/spa/key"
)

func tokenCommand() *cli.Command {
	return &cli.Command{
		Name:         "token",
		Usage:        "join tokens: how devices and hosts come in",
		UsageText:    "postern-controller token create|list|revoke [OPTION]...",
		OnUsageError: asUsage,
		Action:       group,
		Subcommands: []*cli.Command{
			{
				Name:  "create",
				Usage: "make a join token and print it, this once",
				UsageText: "postern-controller token create --role client|host [--user USER] [--name NAME]" +
					" [--expires 15m] [--invitation] [--qr] [--json]",
				Description: `Prints a token that lets one machine enrol, once. It is a secret until it is used: who
has it can enrol in that machine's place. A client's device acts for the user.

With --invitation it is a link, postern://CONTROLLER/..., which is shorter; with --qr
that is drawn as a QR code, too. All forms enrol alike.

Examples:
  $ postern-controller token create --role client --user ana --name anas-laptop
  $ postern-controller token create --role host --name web --expires 1h
  $ postern-controller token create --role client --user ana --qr`,
				OnUsageError: asUsage,
				Action:       tokenCreate,
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "role", Usage: "`ROLE` of the machine: client or host"},
					&cli.StringFlag{Name: "user", Usage: "`USER` a client's device acts for"},
					&cli.StringFlag{Name: "name", Usage: "`NAME` of the machine (default: what it calls itself)"},
					&cli.DurationFlag{Name: "expires", Value: 15 * time.Minute, Usage: "valid for this `TIME`"},
					&cli.BoolFlag{Name: "invitation", Usage: "print the token as a link, postern://..."},
					&cli.BoolFlag{Name: "qr", Usage: "draw the invitation as a QR code above it"},
					jsonFlag(),
				},
			},
			{
				Name: "list", Usage: "list the join tokens that have not expired",
				UsageText:    "postern-controller token list [--json]",
				Description:  "  $ postern-controller token list",
				OnUsageError: asUsage, Action: tokenList, Flags: []cli.Flag{jsonFlag()},
			},
			{
				Name: "revoke", Usage: "withdraw a join token", ArgsUsage: "ID",
				UsageText:    "postern-controller token revoke ID [--json]",
				Description:  "  $ postern-controller token revoke 0123456789abcdef0123456789abcdef",
				OnUsageError: asUsage, Action: tokenRevoke, Flags: []cli.Flag{jsonFlag()},
			},
		},
	}
}

func tokenCreate(c *cli.Context) error {
	if _, err := arguments(c); err != nil {
		return err
	}
	role := control.Role(c.String("role"))
	switch {
	case !role.Valid():
		return usagef("--role must be client or host")
	case role == control.RoleClient && c.String("user") == "":
		return usagef("--user is missing: whom will the device act for?")
	case role == control.RoleHost && c.String("user") != "":
		return usagef("--user is for clients only")
	case c.Bool("qr") && c.Bool(flagJSON):
		return usagef("--qr draws and --json does not: take one")
	}
	a, err := admin(c)
	if err != nil {
		return err
	}
	t, err := a.CreateToken(c.Context, api.TokenRequest{
		Role: role, User: c.String("user"), Name: c.String("name"),
		Expires: control.Duration(c.Duration("expires")),
	})
	if err != nil {
		return err
	}
	if c.Bool(flagJSON) {
		return printJSON(c.App.Writer, t)
	}
	if err := printToken(c, t); err != nil {
		return err
	}
	command := "postern enroll"
	if role == control.RoleHost {
		command = "postern-host enroll"
	}
	say(c, "token %s, valid until %s, for: %s TOKEN", t.ID, when(t.Expires), command)
	return nil
}

// printToken prints the token in the form that was asked for.
func printToken(c *cli.Context, t api.TokenCreated) error {
	out, text := c.App.Writer, t.Text
	if c.Bool("invitation") || c.Bool("qr") {
		if text = t.Invitation; text == "" {
			say(c, "the controller gives no invitation, see its log; this is the join token")
			text = t.Text
		}
	}
	if c.Bool("qr") {
		drawn, err := qrcode.Draw(text, colours(out))
		if err != nil {
			say(c, "%v", err) // the token is made, and is not to be had again
		}
		if _, err := io.WriteString(out, drawn); err != nil {
			return fmt.Errorf("write QR code: %w", err)
		}
	}
	_, err := fmt.Fprintln(out, text)
	return err
}

func tokenList(c *cli.Context) error {
	a, err := noArguments(c)
	if err != nil {
		return err
	}
	tokens, err := a.Tokens(c.Context)
	if err != nil {
		return err
	}
	return printList(c, tokens, "ID ROLE USER NAME EXPIRES USED", func(t api.TokenInfo) []string {
		return []string{
			t.ID.String(), string(t.Role), orDash(t.User), orDash(t.Name), when(t.Expires), yes(t.Used),
		}
	})
}

func tokenRevoke(c *cli.Context) error {
	id, a, err := idArgument(c)
	if err != nil {
		return err
	}
	if err := a.RevokeToken(c.Context, id); err != nil {
		return err
	}
	return done(c, "token %s withdrawn", id)
}

// noArguments is how list commands start.
func noArguments(c *cli.Context) (*api.Admin, error) {
	if _, err := arguments(c); err != nil {
		return nil, err
	}
	return admin(c)
}

// idArgument is how commands start that take one id.
func idArgument(c *cli.Context) (key.ID, *api.Admin, error) {
	args, err := arguments(c, "ID")
	if err != nil {
		return key.ID{}, nil, err
	}
	id, err := key.ParseID(args[0])
	if err != nil {
		return key.ID{}, nil, usagef("%q: %w", args[0], err)
	}
	a, err := admin(c)
	return id, a, err
}

// nameArgument is how commands start that take one name or id.
func nameArgument(c *cli.Context) (string, *api.Admin, error) {
	args, err := arguments(c, "NAME")
	if err != nil {
		return "", nil, err
	}
	a, err := admin(c)
	return args[0], a, err
}

// done is the answer of a command that returns nothing.
func done(c *cli.Context, format string, args ...any) error {
	if c.Bool(flagJSON) {
		return printJSON(c.App.Writer, struct{}{})
	}
	say(c, format, args...)
	return nil
}
