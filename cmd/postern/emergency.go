package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/client"
	"github.com/postern-sdp/postern/internal/atomicfile"
)

// maxKeyFile bounds what is read as an emergency key or a counter, in bytes.
const maxKeyFile = 16 << 10

func (p program) emergency() *cli.Command {
	return &cli.Command{
		Name:  "emergency",
		Usage: "open one port of a host with an emergency key, with no controller about",
		UsageText: "postern emergency --key FILE|- [--counter N] [--address HOST:PORT]... [--wait 5s] " +
			"[--check] [--json]",
		Description: `For the day when every controller is gone. The key comes from postern-host
emergency create; no enrolment is needed. Each use needs the next counter, which is
kept beside the key, in FILE.counter. A host answers nothing: this command looks
whether the port opens. Each use is logged on the host and told to the controller.

--check says what the key is for, and sends nothing.

   $ postern emergency --key /media/stick/web1.key --check
   $ postern emergency --key /media/stick/web1.key

Exit codes: 0 the port is open (or, for UDP, the knock is sent), 1 failed, 2 wrong
command line or key, 4 the port did not open.`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "key", Usage: "`FILE` of the emergency key, or - for standard input"},
			&cli.Uint64Flag{Name: "counter", Usage: "`NUMBER` of the use (default: the next one)"},
			&cli.StringSliceFlag{Name: "address", Usage: "`HOST:PORT` to knock at (default: those in the key)"},
			&cli.DurationFlag{Name: "wait", Value: 5 * time.Second, Usage: "`DURATION` to wait for the port"},
			&cli.BoolFlag{Name: "check", Usage: "say what the key is for, send nothing"},
			jsonFlag(),
		},
		Action: p.runEmergency,
	}
}

func (p program) runEmergency(c *cli.Context) error {
	if err := none(c); err != nil {
		return err
	}
	path := c.String("key")
	if path == "" {
		return usagef("emergency: --key FILE is missing")
	}
	if c.IsSet("counter") && c.Uint64("counter") == 0 {
		return usagef("emergency: --counter: the first one is 1")
	}
	for _, a := range c.StringSlice("address") {
		if _, port, err := net.SplitHostPort(a); err != nil || port == "" {
			return usagef("emergency: --address %q: want host:port", a)
		}
	}
	k, err := p.readEmergencyKey(path)
	if err != nil {
		return err
	}
	counter, err := nextCounter(path, c.Uint64("counter"))
	if err != nil {
		return err
	}
	if c.Bool("check") {
		return p.showEmergencyKey(c, k, counter)
	}
	return p.useEmergencyKey(c, k, path, counter)
}

func (p program) readEmergencyKey(path string) (client.EmergencyKey, error) {
	in := p.in
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return client.EmergencyKey{}, fmt.Errorf("read emergency key: %w", err)
		}
		defer f.Close()
		if info, err := f.Stat(); err == nil && info.Mode().Perm()&0o077 != 0 {
			p.sayf("others on this machine can read %s (mode %04o)", path, info.Mode().Perm())
		}
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxKeyFile))
	if err != nil {
		return client.EmergencyKey{}, fmt.Errorf("read emergency key: %w", err)
	}
	k, err := client.ParseEmergencyKey(string(text))
	if err != nil {
		return k, usageError{err}
	}
	return k, nil
}

// nextCounter returns the counter that was asked for, else the one behind that in the
// file beside the key, else 1.
func nextCounter(path string, asked uint64) (uint64, error) {
	if asked != 0 || path == "-" {
		return max(asked, 1), nil
	}
	f, err := os.Open(counterFile(path))
	if errors.Is(err, fs.ErrNotExist) {
		return 1, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read counter: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return 0, fmt.Errorf("read counter: %w", err)
	}
	used, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32)
	if err != nil {
		return 0, fmt.Errorf("read counter: %s holds no number: say --counter", counterFile(path))
	}
	return used + 1, nil
}

func counterFile(path string) string { return path + ".counter" }

func (p program) showEmergencyKey(c *cli.Context, k client.EmergencyKey, counter uint64) error {
	info := k.Info()
	if c.Bool("json") {
		return p.printJSON(struct {
			client.EmergencyInfo
			Next uint64 `json:"next"`
		}{info, counter})
	}
	_, err := fmt.Fprintf(p.out, "key     %s\nhost    %s (%s)\nat      %s\nopens   %s (%s) for %s\nuse     %d of %d is next\n",
		info.ID, info.Name, info.Host, strings.Join(info.Addresses, ", "), info.Service, info.Port,
		time.Duration(info.For), counter, info.Uses)
	return err
}

func (p program) useEmergencyKey(c *cli.Context, k client.EmergencyKey, path string,
	counter uint64) error {
	info := k.Info()
	if counter > info.Uses {
		return usagef("emergency: all %d uses of this key are gone", info.Uses)
	}
	p.sayf("EMERGENCY ACCESS to %s of %s, use %d of %d: it is logged on the host and told to the controller",
		info.Service, info.Name, counter, info.Uses)
	// Before it is sent: a counter that was skipped costs nothing, one that is used
	// twice opens nothing.
	if path != "-" {
		err := atomicfile.Write(counterFile(path), fmt.Appendf(nil, "%d\n", counter), 0o600)
		if err != nil {
			p.sayf("the counter is not kept: %v", err)
			p.hintf("next time, say --counter %d", counter+1)
		}
	} else {
		p.hintf("next time, say --counter %d", counter+1)
	}
	open, err := k.Use(c.Context, counter, c.StringSlice("address"), c.Duration("wait"))
	if err != nil {
		return err
	}
	if open == "" {
		p.sayf("sent; whether %s is open cannot be seen from here", info.Port)
		return nil
	}
	if c.Bool("json") {
		return p.printJSON(struct {
			Open    string `json:"open"`
			Counter uint64 `json:"counter"`
		}{open, counter})
	}
	p.sayf("open for %s, to this address only", time.Duration(info.For))
	if host, port, err := net.SplitHostPort(open); err == nil && strings.Contains(info.Service, "ssh") {
		p.hintf("ssh -p %s USER@%s", port, host)
	}
	_, err = fmt.Fprintln(p.out, open)
	return err
}

// emergencyHints are what to check when the port did not open, the likeliest first.
func emergencyHints() []string {
	return []string{
		"check, in this order: 1. is the controller really gone? the host refuses while it is there, " +
			"and for a minute after; then wait and try again: each attempt takes the next counter",
		"2. the counter: one that was used opens nothing, here or on another copy of the key; " +
			"try a higher --counter",
		"3. the address: --address HOST:PORT, with the port of the host's tunnel",
		"4. the network: UDP to that port must get out of here, from the same address as TCP",
		"5. the service: it must listen on the host's own address",
	}
}
