package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/client"
	"github.com/postern-sdp/postern/client/profile"
)

const profileVariable = "POSTERN_PROFILE"

func profileFlag() cli.Flag {
	return &cli.StringFlag{
		Name: "profile", EnvVars: []string{profileVariable},
		Usage: "`NAME` of the identity to use (default: the one that postern profile use chose)",
	}
}

func profiles() (profile.Store, error) {
	folder, err := client.DefaultFolder()
	return profile.In(folder), err
}

// chosen returns the identity's folder for this run, and its profile's name: "" for a
// folder that was named by hand, which comes before all profiles.
func chosen(c *cli.Context) (folder, name string, err error) {
	name = c.String("profile")
	if folder = c.Path("identity"); folder != "" {
		if name != os.Getenv(profileVariable) {
			return "", "", usagef("--profile %s and --identity (or POSTERN_IDENTITY) name two identities: "+
				"take one of them away", name)
		}
		return folder, "", nil
	}
	store, err := profiles()
	if err == nil && name == "" {
		name, err = store.Current()
	}
	if err != nil {
		return "", "", err
	}
	folder, err = store.Folder(name)
	return folder, name, err
}

// identityInUse is the folder of a command's identity that nobody says anything else to.
func identityInUse() (string, error) {
	store, err := profiles()
	if err != nil {
		return "", err
	}
	name, err := store.Current()
	if err != nil {
		return "", err
	}
	return store.Folder(name)
}

// useIfFirst makes a profile that was enrolled the one in use when nothing else could
// be, and reports whether it is the one in use.
func useIfFirst(name string) (bool, error) {
	if name == "" {
		return true, nil
	}
	store, err := profiles()
	if err != nil {
		return false, err
	}
	current, err := store.Current()
	if err != nil || current == name {
		return current == name, err
	}
	if store.Has(current) {
		return false, nil
	}
	return true, store.Use(name)
}

func (p program) profile() *cli.Command {
	return &cli.Command{
		Name:      "profile",
		Usage:     "keep several identities, and choose between them",
		UsageText: "postern profile list|use|show|rename|remove [OPTION]... [NAME]...",
		Description: `One device may be enrolled at several controllers, or as several users: each
identity is a profile with a name. The first one needs no name: it is the profile
default. --profile NAME, or POSTERN_PROFILE, chooses one for one command.

   $ postern enroll --profile work -
   $ postern --profile work services
   $ postern profile use work`,
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usagef("profile: no such command: %s", c.Args().First())
			}
			return cli.ShowSubcommandHelp(c)
		},
		Subcommands: []*cli.Command{
			{
				Name: "list", Usage: "list the profiles", UsageText: "postern profile list [--json]",
				Description: "The one in use has a star.\n\n   $ postern profile list",
				Flags:       []cli.Flag{jsonFlag()}, Action: p.listProfiles,
			},
			{
				Name: "use", Usage: "choose the profile that is used from now on", ArgsUsage: "NAME",
				UsageText:   "postern profile use [--json] NAME",
				Description: "   $ postern profile use work\n   $ postern profile use default",
				Flags:       []cli.Flag{jsonFlag()},
				Action:      p.useProfile, BashComplete: p.completeProfile,
			},
			{
				Name: "show", Usage: "show one profile", ArgsUsage: "[NAME]",
				UsageText:   "postern profile show [--json] [NAME]",
				Description: "Shows the one in use if none is named, and asks nobody.\n\n   $ postern profile show work",
				Flags:       []cli.Flag{jsonFlag()}, Action: p.showProfile, BashComplete: p.completeProfile,
			},
			{
				Name: "rename", Usage: "give a profile another name", ArgsUsage: "OLD NEW",
				UsageText:   "postern profile rename [--json] OLD NEW",
				Description: "The default profile keeps its name.\n\n   $ postern profile rename work acme",
				Flags:       []cli.Flag{jsonFlag()},
				Action:      p.renameProfile, BashComplete: p.completeProfile,
			},
			{
				Name: "remove", Usage: "delete a profile's identity from this device", ArgsUsage: "NAME",
				UsageText: "postern profile remove [--yes] [--json] NAME",
				Description: `The key is gone for good; to come back, the device has to be enrolled anew. The
controller is told nothing: its administrator can revoke the device.

   $ postern profile remove work`,
				Flags:  []cli.Flag{&cli.BoolFlag{Name: "yes", Usage: "do not ask"}, jsonFlag()},
				Action: p.removeProfile, BashComplete: p.completeProfile,
			},
		},
	}
}

// profileJSON is one profile. Of one whose identity cannot be read there is only the
// fault.
type profileJSON struct {
	Name    string         `json:"profile"`
	Current bool           `json:"current"`
	Folder  string         `json:"folder"`
	Status  *client.Status `json:"identity,omitempty"`
	Fault   string         `json:"fault,omitempty"`
	err     error
}

func lookAt(store profile.Store, name, current string) (profileJSON, error) {
	folder, err := store.Folder(name)
	if err != nil {
		return profileJSON{}, err
	}
	one := profileJSON{Name: name, Current: name == current, Folder: folder}
	device, err := client.Open(folder)
	if err != nil {
		one.err, one.Fault = err, err.Error()
		return one, nil
	}
	status := device.Status()
	one.Status = &status
	return one, nil
}

// inUse returns the name of the profile that a command without --profile would use.
func inUse(c *cli.Context, store profile.Store) (string, error) {
	if name := c.String("profile"); name != "" {
		return name, profile.CheckName(name)
	}
	return store.Current()
}

func (p program) listProfiles(c *cli.Context) error {
	if err := none(c); err != nil {
		return err
	}
	store, err := profiles()
	if err != nil {
		return err
	}
	names, err := store.List()
	if err != nil {
		return err
	}
	current, err := inUse(c, store)
	if err != nil {
		return err
	}
	all := []profileJSON{}
	for _, name := range names {
		one, err := lookAt(store, name, current)
		if err != nil {
			return err
		}
		all = append(all, one)
	}
	if c.Bool("json") {
		return p.printJSON(all)
	}
	return p.printProfiles(all, time.Now())
}

func (p program) printProfiles(all []profileJSON, now time.Time) error {
	if len(all) == 0 {
		p.sayf("this device has no identity yet")
		p.hintf("get an invitation from your administrator, then: postern enroll -")
		return nil
	}
	t := tabwriter.NewWriter(p.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\tPROFILE\tDEVICE\tCONTROLLER\tCERTIFICATE")
	for _, one := range all {
		star := " "
		if one.Current {
			star = "*"
		}
		if one.Status == nil {
			fmt.Fprintf(t, "%s\t%s\t-\t-\tunusable: %s\n", star, one.Name, one.Fault)
			continue
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", star, one.Name, one.Status.Name, one.Status.Controller,
			expiry(one.Status.Expires, now))
	}
	return t.Flush()
}

func expiry(t, now time.Time) string {
	if now.After(t) {
		return "expired " + t.Local().Format(time.DateTime)
	}
	return "expires " + t.Local().Format(time.DateTime)
}

func (p program) useProfile(c *cli.Context) error {
	name, err := only(c, "profile")
	if err != nil {
		return err
	}
	store, err := profiles()
	if err != nil {
		return err
	}
	if err := store.Use(name); err != nil {
		return err
	}
	for _, variable := range []string{"POSTERN_IDENTITY", profileVariable} {
		if os.Getenv(variable) != "" {
			defer p.hintf("%s is set in this shell, and comes before it", variable)
		}
	}
	if c.Bool("json") {
		return p.printProfile(store, name)
	}
	p.sayf("profile %s is in use", name)
	return nil
}

func (p program) showProfile(c *cli.Context) error {
	store, err := profiles()
	if err != nil {
		return err
	}
	current, err := inUse(c, store)
	if err != nil {
		return err
	}
	name := current
	if c.Args().Present() {
		if name, err = only(c, "profile"); err != nil {
			return err
		}
	}
	if err := profile.CheckName(name); err != nil {
		return err
	}
	if !store.Has(name) {
		return fmt.Errorf("%w: %s", profile.ErrNone, name)
	}
	one, err := lookAt(store, name, current)
	switch {
	case err != nil:
		return err
	case one.Status == nil:
		return one.err
	case c.Bool("json"):
		return p.printJSON(one)
	}
	return printStatus(p.out, statusJSON{Status: *one.Status, Profile: name}, time.Now())
}

func (p program) renameProfile(c *cli.Context) error {
	if c.NArg() != 2 {
		return usagef("rename: want two names, the old one and the new one, not %d", c.NArg())
	}
	store, err := profiles()
	if err != nil {
		return err
	}
	from, to := c.Args().Get(0), c.Args().Get(1)
	if err := store.Rename(from, to); err != nil {
		return err
	}
	if c.Bool("json") {
		return p.printProfile(store, to)
	}
	p.sayf("profile %s is called %s now", from, to)
	return nil
}

// printProfile prints one as JSON.
func (p program) printProfile(store profile.Store, name string) error {
	current, err := store.Current()
	if err != nil {
		return err
	}
	one, err := lookAt(store, name, current)
	if err != nil {
		return err
	}
	return p.printJSON(one)
}

func (p program) removeProfile(c *cli.Context) error {
	name, err := only(c, "profile")
	if err != nil {
		return err
	}
	store, err := profiles()
	if err != nil {
		return err
	}
	one, err := lookAt(store, name, "")
	if err != nil {
		return err
	}
	if store.Has(name) && !c.Bool("yes") {
		if err := p.confirm("remove profile %s for good, the key of this device with it?", name); err != nil {
			return err
		}
	}
	if err := store.Remove(name); err != nil {
		return err
	}
	if c.Bool("json") {
		one.Current = false
		return p.printJSON(one)
	}
	p.sayf("profile %s is removed from this device", name)
	if one.Status != nil {
		p.hintf("%s still knows the device: its administrator can postern-controller device revoke %s",
			one.Status.Controller, one.Status.Device)
	}
	return nil
}

var errNotConfirmed = errors.New("nothing was changed: that was no yes")

// confirm asks a question on the talking stream. Anything but yes is a no; so is the
// end of the input.
func (p program) confirm(format string, args ...any) error {
	fmt.Fprintf(p.talk, "postern: "+format+" [yes/no] ", args...)
	answer, _ := bufio.NewReader(p.in).ReadString('\n')
	if strings.TrimSpace(answer) != "yes" {
		return fmt.Errorf("%w (--yes asks nothing)", errNotConfirmed)
	}
	return nil
}
