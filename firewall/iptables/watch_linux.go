package iptables

import (
	"context"
	"errors"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/firewall/notify"
)

// pollEvery is how often iptables-legacy's rules are looked at, of whose changes
// the kernel tells nobody: one message asks how many rules refer to our sets.
const pollEvery = 100 * time.Millisecond

var _ firewall.Watcher = (*Firewall)(nil)

// Watch implements [firewall.Watcher].
func (f *Firewall) Watch(ctx context.Context, changed func()) error {
	look := func() {
		if f.undone(ctx) {
			changed()
		}
	}
	if f.variant == Legacy {
		f.poll(ctx, look)
		return nil
	}
	var news *notify.Listener
	err := f.namespace.do(func() (err error) {
		news, err = notify.Listen(0)
		return err
	})
	if err != nil {
		return err
	}
	defer news.Close()
	return news.Run(ctx, f.touches, look)
}

// touches reports whether a change may have taken away from our rules. New rules
// in front of them do not.
func (f *Firewall) touches(c notify.Change) bool {
	ours := c.Table == mangle || c.Table == filter
	if !ours || !c.Deleted || c.Family != unix.NFPROTO_IPV4 && c.Family != unix.NFPROTO_IPV6 {
		return false
	}
	switch c.Chain {
	case "", inputChain, outputChain, forwardChain: // the built-in ones have the jumps
		return true
	}
	return strings.HasPrefix(c.Chain, f.name.chain(""))
}

// undone reports whether something of what Install made is missing.
func (f *Firewall) undone(ctx context.Context) bool {
	err := f.use(ctx, func() error { return f.installed(ctx) })
	return errors.Is(err, firewall.ErrNotInstalled)
}

func (f *Firewall) poll(ctx context.Context, look func()) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	seen := f.references(ctx)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if now := f.references(ctx); now != seen {
			seen = now
			look()
		}
	}
}

// references returns the stamp of the rules, the zero one when there are none.
func (f *Firewall) references(ctx context.Context) stamp {
	var s stamp
	_ = f.use(ctx, func() (err error) {
		s, err = f.stampAfter(stamp{})
		return err
	})
	return s
}
