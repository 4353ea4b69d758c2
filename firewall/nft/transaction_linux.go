package nft

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/postern-sdp/postern/firewall"
)

// attempts bounds how often a transaction is tried again that met an element in
// the moment of its expiry.
const attempts = 3

// transaction sends what queue queues as one batch.
func (f *Firewall) transaction(ctx context.Context, queue func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.usableLocked(ctx); err != nil {
		return err
	}
	return f.sendLocked(queue)
}

// sendLocked queues and sends one batch: the kernel takes all of it or nothing.
func (f *Firewall) sendLocked(queue func() error) error {
	return f.repeatLocked(func() error {
		if err := queue(); err != nil {
			return fmt.Errorf("encode: %w", err)
		}
		return f.flushLocked()
	})
}

// repeatLocked does what may meet an element in the moment of its expiry.
func (f *Firewall) repeatLocked(send func() error) error {
	var err error
	for range attempts {
		if err = send(); !errors.Is(err, syscall.ENOENT) {
			return err
		}
		if err := f.installedLocked(); err != nil {
			return err
		}
	}
	return err
}

func (f *Firewall) usableLocked(ctx context.Context) error {
	if f.conn == nil {
		return firewall.ErrClosed
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

func (f *Firewall) flushLocked() error {
	if err := f.socket.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	err := f.conn.Flush()
	if err == nil {
		return nil
	}
	return errors.Join(explain(err), f.drainLocked())
}

// installedLocked returns nil when our table is there, or ErrNotInstalled.
func (f *Firewall) installedLocked() error {
	if err := f.socket.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	_, err := f.conn.ListTableOfFamily(f.table.Name, f.table.Family)
	if errors.Is(err, syscall.ENOENT) {
		return firewall.ErrNotInstalled
	}
	if err != nil {
		return errors.Join(explain(err), f.drainLocked())
	}
	return nil
}

// drainLocked throws answers away that the library left unread, so that the
// next call does not take them for its own. The kernel queues all of them
// before the sending call returns.
func (f *Firewall) drainLocked() error {
	raw, err := f.socket.SyscallConn()
	if err != nil {
		return fmt.Errorf("drain netlink socket: %w", err)
	}
	buffer := make([]byte, 1<<16)
	err = raw.Control(func(fd uintptr) {
		for {
			_, _, err := syscall.Recvfrom(int(fd), buffer, syscall.MSG_DONTWAIT|syscall.MSG_TRUNC)
			if err != nil && err != syscall.EINTR && err != syscall.ENOBUFS {
				return
			}
		}
	})
	if err != nil {
		return fmt.Errorf("drain netlink socket: %w", err)
	}
	return nil
}

// explain names the errors that an operator can mend.
func explain(err error) error {
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%w (%w)", firewall.ErrPermission, err)
	}
	return err
}

// explainInstall also tells why a table could not be made or, when one is
// there, made ours.
func explainInstall(err error, there bool) error {
	unsupported := errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.EPROTONOSUPPORT)
	switch {
	case there && (unsupported || errors.Is(err, syscall.EEXIST)):
		return fmt.Errorf("%w (%w)", ErrForeignTable, err)
	case unsupported:
		return fmt.Errorf("%w (%w)", ErrKernel, err)
	}
	return err
}
