package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/client"
	"github.com/postern-sdp/postern/client/names"
	"github.com/postern-sdp/postern/client/resolver"
	"github.com/postern-sdp/postern/client/up"
)

func (p program) up() *cli.Command {
	return &cli.Command{
		Name:      "up",
		Usage:     "keep all your services reachable on this machine",
		ArgsUsage: "[SERVICE]...",
		UsageText: "postern up [--for DURATION] [--dns ADDRESS | --dns none] [--json] [SERVICE]...\n" +
			"postern up --install-resolver | --uninstall-resolver | --uninstall-hosts [--json]\n" +
			"postern up --install-hosts [--json] SERVICE...",
		Description: `Gives each service (or those named) a loopback address of its own, the same every
day, and listens there on the service's own port, until Ctrl-C. The first connection
knocks; while nobody uses a service, there is no session. What you are granted later
appears by itself.

   $ postern up
   $ psql -h db.postern.internal
   $ dig @dns.postern.internal example.com

Names are answered by a small DNS server (` + names.Server.String() + `). Once, as root, tell the
system's resolver of it (systemd-resolved, macOS); where that is not possible, put the
names into the hosts file:

   $ sudo postern up --install-resolver
   $ sudo postern up --install-hosts db web

Any program on this machine can use what is up, others' programs too. A port below 1024
that you may not listen on is offered 10000 higher. Where the system has one loopback
address only (macOS), each service has a port of its own there, and is not at its usual one.`,
		Flags: []cli.Flag{
			forFlag(),
			&cli.StringFlag{Name: "dns", Value: names.Server.String(), Usage: "`ADDRESS` of the DNS server, or none"},
			&cli.BoolFlag{Name: "install-resolver", Usage: "have the system's resolver ask the DNS server (root)"},
			&cli.BoolFlag{Name: "uninstall-resolver", Usage: "undo that (root)"},
			&cli.BoolFlag{Name: "install-hosts", Usage: "put the services' names into the hosts file (root)"},
			&cli.BoolFlag{Name: "uninstall-hosts", Usage: "take them out (root)"},
			&cli.StringFlag{Name: "root", Value: "/", Hidden: true, Usage: "`FOLDER` that the system's files are in"},
			jsonFlag(),
		},
		Action:       p.runUp,
		BashComplete: p.completeService,
	}
}

func (p program) runUp(c *cli.Context) error {
	var chosen []func(*cli.Context) error
	for _, x := range []struct {
		flag string
		do   func(*cli.Context) error
	}{
		{"install-resolver", p.installResolver}, {"uninstall-resolver", p.uninstallResolver},
		{"install-hosts", p.installHosts}, {"uninstall-hosts", p.uninstallHosts},
	} {
		if c.Bool(x.flag) {
			chosen = append(chosen, x.do)
		}
	}
	switch len(chosen) {
	case 0:
	case 1:
		return asRoot(chosen[0](c))
	default:
		return usagef("up: one of --install-... and --uninstall-..., please")
	}
	if _, err := length(c); err != nil {
		return err
	}
	server, err := dnsAddress(c)
	if err != nil {
		return err
	}
	device, err := open(c)
	if err != nil {
		return err
	}
	return p.keepUp(c, device, server)
}

// dnsAddress is invalid when no server is wanted.
func dnsAddress(c *cli.Context) (netip.AddrPort, error) {
	text := c.String("dns")
	if text == "none" {
		return netip.AddrPort{}, nil
	}
	a, err := netip.ParseAddrPort(text)
	if err != nil || !a.Addr().IsLoopback() {
		return a, usagef("up: --dns %s: want an address of this machine with a port, like %s, or none", text, names.Server)
	}
	return a, nil
}

// keeper is `postern up` at work.
type keeper struct {
	p      program
	json   bool
	only   []string
	set    *up.Set
	dns    *names.DNS
	server netip.AddrPort

	mu    sync.Mutex // guards what follows
	last  []up.Local
	shown map[string]string // per service, the error that was said last
	again chan struct{}
}

func (p program) keepUp(c *cli.Context, device *client.Client, server netip.AddrPort) error {
	asked, _ := length(c)
	d := p.dialer(device, client.DialerConfig{For: asked})
	defer d.Close()
	k := &keeper{
		p: p, json: c.Bool("json"), dns: names.NewDNS(client.Domain), server: server,
		shown: make(map[string]string), again: make(chan struct{}, 1),
	}
	for _, s := range c.Args().Slice() {
		k.only = append(k.only, client.ServiceName(s))
	}
	k.set = up.New(d, k.failed)
	defer k.set.Close()
	ctx, cancel := context.WithCancelCause(c.Context)
	defer cancel(nil)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel(nil)
	if server.IsValid() {
		running.Go(func() {
			if err := k.dns.Serve(ctx, server, func(netip.AddrPort) {}); err != nil {
				p.sayf("%v; services have their addresses, and no names", err)
				p.hintf("another postern up may be running; --dns ADDRESS takes another one")
			}
		})
	}
	defer p.publish(ctx, device, "up", d.Sessions)()
	known, err := client.CachedServices(device.Status().Folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		p.sayf("%v", err)
	}
	k.hintNames(c)
	var refused error
	ask := func(ctx context.Context) (client.Services, error) { return p.list(ctx, device) }
	up.Follow(ctx, ask, known.Services, k.again, func(services []client.Service, err error) {
		if err != nil {
			if !isSilence(err) && !errors.Is(err, client.ErrNoControl) {
				refused = explain(device, err)
				cancel(refused)
				return
			}
			p.sayf("%v; asking again", err)
		}
		k.apply(services)
	})
	if refused != nil {
		return refused
	}
	return context.Cause(c.Context)
}

func (k *keeper) lookAgain() {
	select {
	case k.again <- struct{}{}:
	default:
	}
}

// apply has the services up and shows them when something has changed.
func (k *keeper) apply(services []client.Service) {
	if len(k.only) > 0 {
		services = slices.DeleteFunc(slices.Clone(services), func(s client.Service) bool {
			return !slices.Contains(k.only, s.Name)
		})
	}
	services = slices.DeleteFunc(slices.Clone(services), func(s client.Service) bool { return !safeName.MatchString(s.Name) })
	locals := k.set.Apply(services)
	addresses := make(map[string]netip.Addr)
	for _, l := range locals {
		if l.Error == "" {
			addresses[l.Service] = l.Address.Addr()
		}
	}
	k.dns.Set(addresses)
	k.mu.Lock()
	changed := !slices.Equal(k.last, locals)
	k.last = locals
	k.mu.Unlock()
	if changed {
		k.show(locals)
	}
}

func (k *keeper) show(locals []up.Local) {
	if k.json {
		_ = k.p.printJSON(locals) // who reads it may be gone
		return
	}
	if len(locals) == 0 {
		k.p.sayf("there is nothing to keep up yet; new services appear by themselves")
		return
	}
	t := tabwriter.NewWriter(k.p.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "SERVICE\tNAME\tADDRESS\tPORT\tHOST\tSTATE")
	for _, l := range locals {
		state := "offline"
		if l.Online {
			state = "online"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", l.Service, l.Name, l.Address.Addr(), l.Describe(), l.Host, state)
	}
	_ = t.Flush()
}

// failed says why a connection could not be made: each reason once, until another one
// comes.
func (k *keeper) failed(service string, err error) {
	if client.IsDenied(err) {
		k.lookAgain() // what may be reached has changed
	}
	k.mu.Lock()
	said := k.shown[service] == err.Error()
	k.shown[service] = err.Error()
	k.mu.Unlock()
	if said {
		return
	}
	k.p.sayf("%s: %v", service, err)
	if isSilence(err) || errors.Is(err, client.ErrHostSilent) {
		k.p.hintf("postern doctor %s finds out why", service)
	}
}

// hintNames says how names become addresses, when the system does not know yet.
func (k *keeper) hintNames(c *cli.Context) {
	if !k.server.IsValid() {
		return
	}
	d, err := resolver.For(c.String("root"), client.Domain, k.server)
	if err == nil && d.Installed() && resolver.Usable(c.String("root")) == nil {
		return
	}
	if hosts, err := os.ReadFile(hostsFile(c)); err == nil && strings.Contains(string(hosts), "."+client.Domain) {
		return
	}
	how := "sudo postern up --install-resolver"
	if err != nil || resolver.Usable(c.String("root")) != nil {
		how = "sudo postern up --install-hosts SERVICE..."
	}
	k.p.hintf("names like db.%s are answered at %s; to use them everywhere, once: %s", client.Domain, k.server, how)
}

// asRoot adds what to do to an error of rights.
func asRoot(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: it takes root, so put sudo in front", err)
	}
	return err
}

func (p program) dropIn(c *cli.Context) (resolver.DropIn, error) {
	server, err := dnsAddress(c)
	if err != nil {
		return resolver.DropIn{}, err
	}
	if !server.IsValid() {
		return resolver.DropIn{}, usagef("up: --install-resolver goes with no --dns none")
	}
	if err := none(c); err != nil {
		return resolver.DropIn{}, err
	}
	return resolver.For(c.String("root"), client.Domain, server)
}

func (p program) installResolver(c *cli.Context) error {
	d, err := p.dropIn(c)
	if err == nil {
		err = resolver.Usable(c.String("root"))
	}
	if errors.Is(err, resolver.ErrNoResolver) {
		return hinted{err, "sudo postern up --install-hosts SERVICE... puts the names into the hosts file"}
	}
	if err != nil {
		return err
	}
	changed, err := d.Install()
	if err != nil {
		return err
	}
	if err := p.tellSystem(c, d.Begin); err != nil {
		return err
	}
	return p.tellFile(c, d.Path, changed, fmt.Sprintf("names under .%s are asked for at %s: %s", client.Domain, c.String("dns"), d.Path))
}

func (p program) uninstallResolver(c *cli.Context) error {
	d, err := p.dropIn(c)
	if err != nil {
		return err
	}
	if !d.There() {
		return p.tellFile(c, d.Path, false, nothingThere)
	}
	told := p.tellSystem(c, d.End)
	if _, err := d.Uninstall(); err != nil || told != nil {
		return errors.Join(told, err)
	}
	return p.tellFile(c, d.Path, true, "the system's resolver is as it was before")
}

const nothingThere = "there was nothing to take away"

// tellFile says what became of one of the system's files.
func (p program) tellFile(c *cli.Context, path string, changed bool, sentence string) error {
	if c.Bool("json") {
		return p.printJSON(struct {
			File    string `json:"file"`
			Changed bool   `json:"changed"`
		}{path, changed})
	}
	p.sayf("%s", sentence)
	return nil
}

// tellSystem runs the commands that make a drop-in count, or take it back, unless it
// is another system's.
func (p program) tellSystem(c *cli.Context, commands [][]string) error {
	for _, command := range commands {
		line := strings.Join(command, " ")
		if c.String("root") != "/" {
			p.hintf("in that system: %s", line)
			continue
		}
		if out, err := exec.CommandContext(c.Context, command[0], command[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", line, err, bytes.TrimSpace(out))
		}
	}
	return nil
}

func (p program) installHosts(c *cli.Context) error {
	services := c.Args().Slice()
	if len(services) == 0 {
		return usagef("up: --install-hosts: which services? postern services lists them")
	}
	for i, s := range services {
		if services[i] = client.ServiceName(s); !safeName.MatchString(services[i]) {
			return usagef("up: %q is no service's name", s)
		}
	}
	addresses := make(map[string]netip.Addr)
	for name, place := range names.Places(services) {
		addresses[name+"."+client.Domain] = place.Addr()
	}
	changed, err := resolver.WriteHosts(hostsFile(c), addresses)
	if err != nil {
		return err
	}
	sentence := fmt.Sprintf("%s has %s now", hostsFile(c), plural(len(addresses), "name"))
	if !changed {
		sentence = hostsFile(c) + " has them already"
	}
	return p.tellFile(c, hostsFile(c), changed, sentence)
}

func (p program) uninstallHosts(c *cli.Context) error {
	if err := none(c); err != nil {
		return err
	}
	changed, err := resolver.WriteHosts(hostsFile(c), nil)
	if err != nil {
		return err
	}
	sentence := hostsFile(c) + " is as it was before"
	if !changed {
		sentence = nothingThere
	}
	return p.tellFile(c, hostsFile(c), changed, sentence)
}
