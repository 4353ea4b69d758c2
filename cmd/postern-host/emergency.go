package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/host"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/spa"
	"github.com/postern-sdp/postern/spa/key"
)

func (p program) emergency() *cli.Command {
	c := &cli.Command{
		Name:      "emergency",
		Usage:     "make and take back keys for the day when every controller is gone",
		UsageText: "postern-host emergency create|list|revoke|close|log [OPTION]...",
		Description: `An emergency key opens one port of this host, to the address that it is used
from, with no controller's help: postern emergency --key FILE. Make it ahead of time
and keep it offline. It works once for each of its uses, and only after there has
been no controller for a while (emergency.only_when_alone). Each use is in the log
at level ERROR, in the audit below the state folder, and told to the controller.

   $ postern-host emergency create --service ssh --port tcp/22 --out /media/stick/web1.key
   $ postern-host emergency list
   $ postern-host emergency log --verify`,
		Subcommands: []*cli.Command{
			p.emergencyCreate(), p.emergencyList(), p.emergencyRevoke(), p.emergencyClose(), p.emergencyLog(),
		},
		Action: func(c *cli.Context) error {
			return usageError{fmt.Errorf("emergency: no such command: %q", c.Args().First())}
		},
	}
	for _, sub := range c.Subcommands {
		sub.OnUsageError = func(_ *cli.Context, err error, _ bool) error { return usageError{err} }
	}
	return c
}

func (p program) emergencyCreate() *cli.Command {
	return &cli.Command{
		Name:  "create",
		Usage: "make an emergency key and show it, once",
		UsageText: "postern-host emergency create --service NAME --port tcp/22 [--for 15m] [--uses 10]\n" +
			"   [--address HOST:PORT]... [--out FILE|-] [--config FILE]",
		Description: `This machine keeps only what recognises the key: it cannot show it again.
--out writes a new file that only its owner may read.

   $ postern-host emergency create --service ssh --port tcp/22 --out /media/stick/web1.key`,
		Flags: []cli.Flag{
			configFlag(),
			&cli.StringFlag{Name: "service", Usage: "`NAME` of the service, for people and the audit"},
			&cli.StringFlag{Name: "port", Usage: "this host's own `PORT`, like tcp/22"},
			&cli.DurationFlag{Name: "for", Value: 15 * time.Minute,
				Usage: "`DURATION` for which one use opens the port, 24h at most"},
			&cli.Uint64Flag{Name: "uses", Value: 10, Usage: "`NUMBER` of times it can be used, 100 at most"},
			&cli.StringSliceFlag{Name: "address", Usage: "`HOST:PORT` to knock at: this host as its users " +
				"reach it, and the port of tunnel.listen (default: tunnel.advertise, or the addresses " +
				"of the interfaces)"},
			&cli.StringFlag{Name: "out", Value: "-", Usage: "`FILE` to write, or - for standard output"},
		},
		Action: func(c *cli.Context) error {
			s, k, err := emergencyRequest(c)
			if err != nil {
				return err
			}
			made, err := host.CreateEmergencyKey(s.State, k, func(k control.EmergencyKey) error {
				return p.handOver(k, c.String("out"))
			})
			switch {
			case errors.Is(err, control.ErrNotEnrolled):
				return hintError{err, "postern-host enroll first: the key names this host"}
			case err != nil:
				return fmt.Errorf("emergency create: %w", err)
			}
			p.cautions(s, made)
			return nil
		},
	}
}

// emergencyRequest reads what the key is to be.
func emergencyRequest(c *cli.Context) (host.Settings, control.EmergencyKey, error) {
	fail := func(err error) (host.Settings, control.EmergencyKey, error) {
		return host.Settings{}, control.EmergencyKey{}, err
	}
	s, err := settings(c)
	if err != nil {
		return fail(err)
	}
	if c.Args().Present() {
		return fail(usageError{fmt.Errorf("emergency create: takes no argument, got %q", c.Args().First())})
	}
	port, err := control.ParseServicePort(c.String("port"))
	if err != nil {
		return fail(usageError{fmt.Errorf("emergency create: --port: %w", err)})
	}
	k := control.EmergencyKey{
		Service: c.String("service"), Port: port, For: c.Duration("for"), Uses: c.Uint64("uses"),
		Addresses: c.StringSlice("address"),
	}
	if len(k.Addresses) == 0 {
		if k.Addresses, err = ownAddresses(s.Tunnel); err != nil {
			return fail(err)
		}
	}
	if len(k.Addresses) == 0 {
		return fail(usageError{errors.New("emergency create: no address of this host is known: " +
			"say --address HOST:PORT")})
	}
	// What is still missing is made later; its faults are found now, as wrong usage.
	whole := k
	whole.Host, whole.ID, whole.Secret = key.NewID(), key.NewID(), key.NewEmergency()
	if err := whole.Validate(); err != nil {
		return fail(usageError{fmt.Errorf("emergency create: %w", err)})
	}
	return s, k, nil
}

// ownAddresses are where clients reach the tunnel's port, as far as this host knows.
func ownAddresses(t host.TunnelSettings) ([]string, error) {
	if len(t.Advertise) > 0 {
		return t.Advertise, nil
	}
	listen, err := netip.ParseAddrPort(t.Listen)
	if err != nil || !listen.Addr().IsUnspecified() {
		return []string{t.Listen}, err
	}
	interfaces, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("look for this host's addresses: %w", err)
	}
	const most = 8
	var all []string
	for _, i := range interfaces {
		prefix, err := netip.ParsePrefix(i.String())
		if err == nil && prefix.Addr().IsGlobalUnicast() && len(all) < most {
			all = append(all, netip.AddrPortFrom(prefix.Addr(), listen.Port()).String())
		}
	}
	return all, nil
}

// handOver writes the key to a file of its own or to standard output.
func (p program) handOver(k control.EmergencyKey, path string) error {
	text, err := k.Encode()
	if err != nil {
		return err
	}
	if path == "-" {
		_, err := fmt.Fprintln(p.out, text)
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, text)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// cautions says what may keep the key from helping on its day.
func (p program) cautions(s host.Settings, k control.EmergencyKey) {
	say := func(format string, args ...any) { fmt.Fprintf(p.talk, "postern-host: "+format+"\n", args...) }
	hint := func(format string, args ...any) { fmt.Fprintf(p.talk, "hint: "+format+"\n", args...) }
	say("emergency key %s opens %s (%s) for %s, %d times, knocked at %v", k.ID, k.Service, k.Port, k.For,
		k.Uses, k.Addresses)
	hint("it is a secret and not shown again: keep it offline; to use it: postern emergency --key FILE")
	if !s.Tunnel.Capture {
		say("tunnel.capture is off: the firewall drops emergency knocks before the agent sees them")
		hint("set tunnel.capture = true, or this key does not work")
	}
	if s.Firewall.Backend == host.BackendNone {
		say("there is no firewall (firewall.backend): there is nothing that this key could open")
	}
	switch who, err := host.WhoListens(k.Port); {
	case err != nil:
		say("%v", err)
	case who == host.ListensLocally:
		say("%s listens on loopback addresses only, which no pinhole leads to: this key cannot help", k.Port)
		hint("make the service listen on this host's own address as well; the firewall keeps it dark")
	case who == host.ListensNobody:
		say("nobody listens on %s now", k.Port)
	}
}

func (p program) emergencyList() *cli.Command {
	return &cli.Command{
		Name:        "list",
		Usage:       "show the emergency keys of this host, without their secrets",
		UsageText:   "postern-host emergency list [--json] [--config FILE]",
		Description: "\n   $ postern-host emergency list",
		Flags:       []cli.Flag{configFlag(), &cli.BoolFlag{Name: "json", Usage: "print JSON"}},
		Action: func(c *cli.Context) error {
			s, err := settings(c)
			if err != nil {
				return err
			}
			keys, err := host.EmergencyKeys(s.State)
			if err != nil {
				return err
			}
			if c.Bool("json") {
				e := json.NewEncoder(p.out)
				e.SetIndent("", "  ")
				return e.Encode(keys)
			}
			return printEmergencyKeys(p.out, keys)
		},
	}
}

func printEmergencyKeys(w io.Writer, keys []host.EmergencyKeyInfo) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "KEY\tSERVICE\tPORT\tFOR\tUSED\tCREATED")
	for _, k := range keys {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d of %d\t%s\n", k.ID, k.Service, k.Port,
			time.Duration(k.For), k.Used, min(k.Uses, spa.MaxEmergencyCounter),
			k.Created.Local().Format(time.DateTime))
	}
	return t.Flush()
}

// oneID reads the command's argument.
func oneID(c *cli.Context) (key.ID, error) {
	if c.NArg() != 1 {
		return key.ID{}, usageError{fmt.Errorf("%s: want one ID, got %d arguments", c.Command.Name, c.NArg())}
	}
	id, err := key.ParseID(c.Args().First())
	if err != nil {
		return key.ID{}, usageError{fmt.Errorf("%s: %w", c.Command.Name, err)}
	}
	return id, nil
}

func (p program) emergencyRevoke() *cli.Command {
	return &cli.Command{
		Name:      "revoke",
		Usage:     "make an emergency key worthless, and close what it opened",
		UsageText: "postern-host emergency revoke [--config FILE] ID",
		Description: `
   $ postern-host emergency revoke 0123456789abcdef0123456789abcdef`,
		Flags: []cli.Flag{configFlag()},
		Action: func(c *cli.Context) error {
			s, err := settings(c)
			if err != nil {
				return err
			}
			id, err := oneID(c)
			if err != nil {
				return err
			}
			if err := host.RevokeEmergencyKey(s.State, id); err != nil {
				return hintError{fmt.Errorf("emergency revoke: %w", err), "postern-host emergency list shows them"}
			}
			if _, err = fmt.Fprintf(p.out, "revoked %s\n", id); err != nil {
				return err
			}
			return p.untilShut(c, s)
		},
	}
}

func (p program) emergencyClose() *cli.Command {
	return &cli.Command{
		Name:      "close",
		Usage:     "close what emergency keys opened; the keys stay good",
		UsageText: "postern-host emergency close [--config FILE] [ID]",
		Description: `Without the ID of an opening, which postern-host status shows, it closes all.

   $ postern-host emergency close`,
		Flags: []cli.Flag{configFlag()},
		Action: func(c *cli.Context) error {
			s, err := settings(c)
			if err != nil {
				return err
			}
			var id key.ID
			if c.Args().Present() {
				if id, err = oneID(c); err != nil {
					return err
				}
			}
			n, err := host.CloseEmergency(s.State, id)
			if err != nil {
				return hintError{fmt.Errorf("emergency close: %w", err), "postern-host status shows what is open"}
			}
			if _, err = fmt.Fprintf(p.out, "closed %d\n", n); err != nil || n == 0 {
				return err
			}
			return p.untilShut(c, s)
		},
	}
}

// untilShut waits until the agent has closed what the state folder says is closed.
func (p program) untilShut(c *cli.Context, s host.Settings) error {
	err := host.AwaitEmergencyClosed(c.Context, s)
	if errors.Is(err, host.ErrNotRunning) {
		return hintError{err, "what is open stays until its deadline or until the agent starts: " +
			"systemctl start postern-host"}
	}
	return err
}

func (p program) emergencyLog() *cli.Command {
	return &cli.Command{
		Name:      "log",
		Usage:     "print the emergency audit, one JSON object a line",
		UsageText: "postern-host emergency log [--verify] [--config FILE]",
		Description: `Each line has the hash of the one before. --verify checks the whole chain and
prints nothing: exit code 1 tells that lines were changed, added or taken out. Who owns
this machine could write a new chain; the controller keeps what it was told.

   $ postern-host emergency log
   $ postern-host emergency log --verify`,
		Flags: []cli.Flag{configFlag(), &cli.BoolFlag{Name: "verify", Usage: "check the chain"}},
		Action: func(c *cli.Context) error {
			s, err := settings(c)
			if err != nil {
				return err
			}
			if c.Bool("verify") {
				return host.VerifyEmergencyLog(s.State)
			}
			return host.WriteEmergencyLog(s.State, p.out)
		},
	}
}
