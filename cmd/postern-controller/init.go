package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/controller"
	"github.com/postern-sdp/postern/internal/atomicfile"
)

func initCommand() *cli.Command {
	return &cli.Command{
		Name:      "init",
		Usage:     "make a new controller: its key, its authority and, if missing, its configuration",
		UsageText: "postern-controller init --name NAME [--advertise HOST:PORT]... [--state DIR]",
		Description: `Makes the state folder with the controller's key and certificate authority. It never
overwrites: where a controller is, nothing is changed. The name goes into every knock
and certificate and cannot be changed later; the machine's DNS name is a good one.

A configuration that is missing is written, with the name, the state folder and the
addresses at which the knock port is reached from outside.

Example:
  $ postern-controller init --name gate.example --advertise gate.example:4040`,
		OnUsageError: asUsage,
		Action:       initAction,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "name", Usage: "the controller's `NAME`: a-z, 0-9, '-' and '.'"},
			&cli.StringSliceFlag{
				Name: "advertise", Usage: "knock port as reached from outside, `HOST:PORT`; may be repeated",
			},
			&cli.StringFlag{Name: "state", Usage: "state folder `DIR` (default: the configuration's)"},
			jsonFlag(),
		},
	}
}

func initAction(c *cli.Context) error {
	if _, err := arguments(c); err != nil {
		return err
	}
	path := c.String(flagConfig)
	config, err := controller.LoadConfig(path)
	missing := errors.Is(err, fs.ErrNotExist)
	switch {
	case missing:
		if config, err = newConfig(c); err != nil {
			return err
		}
	case err != nil:
		return configError{err}
	case c.IsSet("name") && c.String("name") != config.Name:
		return usagef("%s says the name is %q", path, config.Name)
	case c.IsSet("advertise"):
		return usagef("%s exists: set knock.advertise there", path)
	case c.IsSet("state") && c.String("state") != config.State:
		return usagef("%s says the state folder is %s", path, config.State)
	}
	// ------------- nothing above this line touches the machine -------------
	made, err := controller.Init(config.State, config.Name)
	if err != nil {
		return err
	}
	if missing {
		if err := writeConfig(path, config); err != nil {
			return errors.Join(err, os.RemoveAll(config.State))
		}
		say(c, "wrote %s", path)
	}
	if c.Bool(flagJSON) {
		return printJSON(c.App.Writer, made)
	}
	say(c, "made controller %s in %s", made.Name, made.State)
	say(c, "next: postern-controller serve")
	return nil
}

func newConfig(c *cli.Context) (controller.Config, error) {
	config := controller.Defaults()
	config.Name = c.String("name")
	config.Knock.Advertise = c.StringSlice("advertise")
	if config.Name == "" {
		return config, usagef("--name is missing, and there is no %s", c.String(flagConfig))
	}
	if c.IsSet("state") {
		config.State = c.String("state")
	}
	if err := config.Validate(); err != nil {
		return config, usageError{err}
	}
	return config, nil
}

func writeConfig(path string, config controller.Config) error {
	var b strings.Builder
	b.WriteString("# Every key that is not here has its default; serve --check prints them all.\n")
	fmt.Fprintf(&b, "name = %s\nstate = %s\n", strconv.Quote(config.Name), strconv.Quote(config.State))
	if len(config.Knock.Advertise) > 0 {
		var quoted []string
		for _, a := range config.Knock.Advertise {
			quoted = append(quoted, strconv.Quote(a))
		}
		fmt.Fprintf(&b, "\n[knock]\nadvertise = [%s]\n", strings.Join(quoted, ", "))
	}
	b.WriteString("\n# Who may reach this machine without a knock. Without such a rule the firewall shuts\n" +
		"# everybody out, you too.\n# [[keep]]\n# source = \"192.0.2.0/24\"\n# ports = [\"tcp/22\"]\n")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make configuration folder: %w", err)
	}
	if err := atomicfile.Write(path, []byte(b.String()), 0o644); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return nil
}
