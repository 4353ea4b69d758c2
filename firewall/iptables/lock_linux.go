package iptables

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// lease is for how long the lock is held at most: longer than all programs of one
// Install may take, should each of them be slow.
const lease = 2 * time.Minute

const lockPause = 3 * time.Millisecond

// lock keeps other processes from changing the same rules. It is the only element
// that a set has room for: adding it is atomic, none but the rightful can do it, and
// each network namespace has its own. It names the netlink socket of the holder, which
// is gone as soon as that one is, killed or not: then whoever comes next takes it
// away. The returned function gives the lock back.
func (f *Firewall) lockLocked(ctx context.Context) (unlock func() error, err error) {
	self, err := f.sets.socket.Socket.GetPid()
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	own := holder(self)
	set := f.name.set(lockSet)
	deadline := time.Now().Add(lease + patience)
	for {
		err := f.sets.create(set, addressSet(false), 1, true)
		if err == nil {
			err = f.sets.addNew(set, own)
		}
		if errors.Is(err, errThere) { // left by one that had our socket's number before us
			err = f.sets.add(set, own)
		}
		switch {
		case err == nil:
			return func() error { return ignore(f.sets.remove(set, own), errMissing) }, nil
		case errors.Is(err, ErrFull):
			if time.Now().After(deadline) {
				return nil, ErrBusy
			}
			err = f.releaseDeadLocked(set)
		}
		if ignore(err, errMissing) != nil { // it may be destroyed in between
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(lockPause):
		}
	}
}

// holder is the element for a netlink socket, whose number fits an address.
func holder(socket uint32) element {
	address := netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, socket)))
	return element{address: address, timeout: lease}
}

// releaseDeadLocked takes the lock from one that does not live any more.
func (f *Firewall) releaseDeadLocked(set string) error {
	held, err := f.sets.elements(set)
	if err != nil {
		return err
	}
	for _, e := range held {
		alive, err := f.namespace.hasSocket(binary.BigEndian.Uint32(e.address.AsSlice()))
		if err != nil {
			return err
		}
		if !alive {
			e.timeout = 0
			if err := f.sets.remove(set, e); err != nil {
				return err
			}
		}
	}
	return nil
}

// hasSocket reports whether there is a netlink socket of netfilter's with a number: then
// the kernel gives it to no second one.
func (n namespace) hasSocket(number uint32) (there bool, err error) {
	err = n.do(func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
		if err != nil {
			return fmt.Errorf("look for a netlink socket: %w", err)
		}
		defer unix.Close(fd)
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Pid: number})
		there = errors.Is(err, unix.EADDRINUSE)
		if err != nil && !there {
			return fmt.Errorf("look for a netlink socket: %w", err)
		}
		return nil
	})
	return there, err
}

// ignore returns err unless it is what.
func ignore(err, what error) error {
	if errors.Is(err, what) {
		return nil
	}
	return err
}
