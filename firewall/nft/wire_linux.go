package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A change of elements does not go through the library: it asks for an answer to each
// message, and gives each a page of memory and two system calls, which is most of what
// an opening takes. Here the whole transaction has one answer, and no wait.

// largestKept is how much memory of a change is kept for the next.
const largestKept = 1 << 16

// wire writes one transaction for the kernel.
type wire struct {
	data   []byte
	number uint32 // of the newest message
	at     int    // where it begins
}

// frame begins or ends a transaction.
func (w *wire) frame(kind uint16) {
	w.message(kind, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, func() {})
}

// ask has the kernel answer the newest message.
func (w *wire) ask() {
	flags := w.data[w.at+6:]
	binary.NativeEndian.PutUint16(flags, binary.NativeEndian.Uint16(flags)|unix.NLM_F_ACK)
}

// message writes struct nlmsghdr, struct nfgenmsg and what body writes.
func (w *wire) message(kind, flags uint16, family byte, resource uint16, body func()) {
	w.number++
	at := len(w.data)
	w.at = at
	w.data = binary.NativeEndian.AppendUint32(w.data, 0) // length
	w.data = binary.NativeEndian.AppendUint16(w.data, kind)
	w.data = binary.NativeEndian.AppendUint16(w.data, unix.NLM_F_REQUEST|flags)
	w.data = binary.NativeEndian.AppendUint32(w.data, w.number)
	w.data = binary.NativeEndian.AppendUint32(w.data, 0) // of this socket
	w.data = append(w.data, family, unix.NFNETLINK_V0)
	w.data = binary.BigEndian.AppendUint16(w.data, resource)
	body()
	binary.NativeEndian.PutUint32(w.data[at:], uint32(len(w.data)-at))
}

// attribute writes struct nlattr and a value, to a multiple of four bytes.
func (w *wire) attribute(kind uint16, value []byte) {
	w.nested(kind, func() { w.data = append(w.data, value...) })
}

func (w *wire) nested(kind uint16, body func()) {
	at := len(w.data)
	w.data = binary.NativeEndian.AppendUint16(w.data, 0) // length
	w.data = binary.NativeEndian.AppendUint16(w.data, kind)
	body()
	binary.NativeEndian.PutUint16(w.data[at:], uint16(len(w.data)-at))
	for len(w.data)%unix.NLA_ALIGNTO != 0 {
		w.data = append(w.data, 0)
	}
}

// elements writes messages that add elements to a set of table, or delete them.
func (w *wire) elements(kind uint16, table string, l layout, all []element) {
	for some := range slices.Chunk(all, perMessage) {
		w.message(unix.NFNL_SUBSYS_NFTABLES<<8|kind, unix.NLM_F_CREATE, unix.NFPROTO_INET, 0, func() {
			w.attribute(unix.NFTA_SET_ELEM_LIST_TABLE, append([]byte(table), 0))
			w.attribute(unix.NFTA_SET_ELEM_LIST_SET, append([]byte(l.name), 0))
			w.nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS|unix.NLA_F_NESTED, func() {
				for _, e := range some {
					w.nested(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, func() { w.element(e) })
				}
			})
		})
	}
}

func (w *wire) element(e element) {
	w.nested(unix.NFTA_SET_ELEM_KEY|unix.NLA_F_NESTED, func() {
		w.attribute(unix.NFTA_DATA_VALUE, e.key)
	})
	if e.timeout > 0 {
		ms := binary.BigEndian.AppendUint64(nil, uint64(e.timeout/time.Millisecond))
		w.attribute(unix.NFTA_SET_ELEM_TIMEOUT, ms)
	}
}

// exchangeLocked sends a transaction of which the last message but the end asks for an answer,
// and returns the first fault in it. The kernel has carried it out and answered when it
// has taken it.
func (f *Firewall) exchangeLocked() error {
	raw, err := f.socket.SyscallConn()
	if err != nil {
		return err
	}
	var fault error
	err = raw.Control(func(fd uintptr) {
		to := &unix.SockaddrNetlink{Family: unix.AF_NETLINK}
		if fault = unix.Sendto(int(fd), f.wire.data, 0, to); fault == nil {
			fault = answer(int(fd), f.wire.number-1)
		}
	})
	if err = errors.Join(err, fault); err != nil {
		return errors.Join(explain(err), f.drainLocked())
	}
	return nil
}

// answer reads what the kernel says about a transaction up to its last message.
func answer(fd int, last uint32) error {
	buffer := make([]byte, 1<<10) // of an answer only the beginning counts
	var fault error
	for {
		k, _, err := unix.Recvfrom(fd, buffer, unix.MSG_DONTWAIT)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN && fault != nil:
			return fault
		case err != nil:
			return fmt.Errorf("answer of nftables: %w", err)
		case k < unix.NLMSG_HDRLEN+4:
			continue
		}
		kind, number := binary.NativeEndian.Uint16(buffer[4:]), binary.NativeEndian.Uint32(buffer[8:])
		if kind != unix.NLMSG_ERROR {
			continue
		}
		errno := syscall.Errno(-int32(binary.NativeEndian.Uint32(buffer[unix.NLMSG_HDRLEN:])))
		if errno != 0 && fault == nil {
			fault = errno
		}
		if number == last {
			return fault
		}
	}
}
