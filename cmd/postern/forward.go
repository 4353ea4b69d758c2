package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/client"
	"github.com/postern-sdp/postern/internal/control"
)

// anyPort is what a service without an address of its own listens on.
const anyPort = "127.0.0.1:0"

// forward is one service with the local addresses that it is to have.
type forward struct {
	service string
	listen  []string
}

// forwards brings services and addresses together.
func forwards(services, listen []string) ([]forward, error) {
	if len(services) == 0 {
		return nil, usagef("connect: service is missing")
	}
	all := make([]forward, len(services))
	for i, s := range services {
		if slices.Contains(services[:i], s) {
			return nil, usagef("connect: %s is named twice: give it two --listen", s)
		}
		all[i].service = s
	}
	next := 0 // service for an address without a name
	for _, text := range listen {
		name, address, named := strings.Cut(text, "=")
		at := slices.Index(services, name)
		switch {
		case !named && len(services) == 1:
			at, address = 0, text
		case !named:
			for next < len(all) && len(all[next].listen) > 0 {
				next++
			}
			if at, address = next, text; next == len(all) {
				return nil, usagef("connect: --listen %s is one too many: say for which service, as SERVICE=%s", text, text)
			}
		case at < 0:
			return nil, usagef("connect: --listen %s: %s is not among the services", text, name)
		}
		if _, err := strconv.ParseUint(address, 10, 16); err == nil {
			address = net.JoinHostPort("127.0.0.1", address)
		}
		all[at].listen = append(all[at].listen, address)
	}
	for i := range all {
		if len(all[i].listen) == 0 {
			all[i].listen = []string{anyPort}
		}
	}
	return all, nil
}

// offered is a service with its session and its local ports.
type offered struct {
	forward
	access  *client.Access
	streams []net.Listener
	packets []net.PacketConn
}

// forward offers services on local ports until Ctrl-C, or until all sessions are
// over for good.
func (p program) forward(c *cli.Context, device *client.Client, wanted []forward) error {
	var all []*offered
	defer func() {
		for _, o := range all {
			o.close()
		}
	}()
	asked, _ := length(c)
	for _, f := range wanted {
		o := &offered{forward: f}
		all = append(all, o)
		// Before the knock: a port that is taken needs no session.
		if err := o.open(c.Context, c.Bool("listen-anyone")); err != nil {
			return err
		}
	}
	for _, o := range all {
		who := ""
		if len(all) > 1 {
			who = o.service
		}
		stop := p.waiting(controllersAnswer)
		var err error
		o.access, err = device.Access(c.Context, client.AccessConfig{
			Service: o.service, For: asked, NoRenew: c.Bool("no-renew"), Notify: p.notify(who, false),
		})
		stop()
		if err == nil && o.access.Granted().Access().Transport == control.TransportUDP {
			err = o.becomePackets(c.Context, c.Bool("listen-anyone"))
		}
		if err != nil {
			if who != "" {
				err = fmt.Errorf("%s: %w", who, err)
			}
			return explain(device, err)
		}
	}
	if err := p.printOffered(c, all); err != nil {
		return err
	}
	defer p.publish(c.Context, device, "connect", func() (infos []client.AccessInfo) {
		for _, o := range all {
			infos = append(infos, o.access.Info())
		}
		return infos
	})()
	return p.serve(c.Context, all)
}

func (o *offered) open(ctx context.Context, anyone bool) error {
	for _, address := range o.listen {
		l, err := client.Listen(ctx, address, anyone)
		if err != nil {
			return err
		}
		o.streams = append(o.streams, l)
	}
	return nil
}

// becomePackets exchanges the local ports for UDP's.
func (o *offered) becomePackets(ctx context.Context, anyone bool) error {
	for _, l := range o.streams {
		l.Close()
	}
	o.streams = nil
	for _, address := range o.listen {
		l, err := client.ListenPacket(ctx, address, anyone)
		if err != nil {
			return err
		}
		o.packets = append(o.packets, l)
	}
	return nil
}

func (o *offered) close() {
	for _, l := range o.streams {
		l.Close()
	}
	for _, l := range o.packets {
		l.Close()
	}
	if o.access != nil {
		o.access.Close()
	}
}

// addresses are as people are told them.
func (o *offered) addresses(protocol bool) []string {
	var all []string
	for _, l := range o.streams {
		all = append(all, l.Addr().String())
	}
	for _, l := range o.packets {
		address := l.LocalAddr().String()
		if protocol {
			address = "udp " + address
		}
		all = append(all, address)
	}
	return all
}

func (p program) printOffered(c *cli.Context, all []*offered) error {
	if c.Bool("json") {
		var texts []grantJSON
		for _, o := range all {
			for _, address := range o.addresses(false) {
				g := grantText(o.access.Granted())
				g.Listen = address
				texts = append(texts, g)
			}
		}
		if len(texts) == 1 {
			return p.printJSON(texts[0])
		}
		return p.printJSON(texts)
	}
	for _, o := range all {
		for _, address := range o.addresses(true) {
			if len(all) > 1 {
				address = o.service + " " + address
			}
			if _, err := fmt.Fprintln(p.out, address); err != nil {
				return err
			}
		}
	}
	return nil
}

// serve carries connections until ctx ends, or each service is over for good.
func (p program) serve(ctx context.Context, all []*offered) error {
	ends := make([]error, len(all))
	var running sync.WaitGroup
	for i, o := range all {
		var ports []func() error
		for _, l := range o.streams {
			ports = append(ports, func() error { return o.access.Serve(ctx, l) })
		}
		for _, l := range o.packets {
			ports = append(ports, func() error { return o.access.ServePackets(ctx, l) })
		}
		running.Go(func() {
			err := each(ports)
			if err != nil && len(all) > 1 {
				err = fmt.Errorf("%s: %w", o.service, err)
				p.complain(err) // the others go on
			}
			ends[i] = err
		})
	}
	running.Wait()
	if err := errors.Join(ends...); err != nil {
		if len(all) == 1 {
			return ends[0]
		}
		return err
	}
	p.sayf("session closed")
	return context.Cause(ctx)
}

// each runs all of them and returns the first error.
func each(all []func() error) error {
	results := make(chan error, len(all))
	for _, f := range all {
		go func() { results <- f() }()
	}
	var first error
	for range all {
		if err := <-results; first == nil {
			first = err
		}
	}
	return first
}
