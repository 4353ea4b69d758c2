package doctor

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// socket is one of the kernel's.
type socket struct {
	protocol string // tcp or udp
	local    netip.AddrPort
	remote   netip.AddrPort
	state    uint64
	inode    uint64
	program  string
}

// States of sockets in /proc/net (include/net/tcp_states.h). A UDP socket without a
// peer is in state "closed".
const stateListen, stateClosed, stateEstablished = 0x0a, 0x07, 0x01

// listening returns the sockets of this thread's network namespace that take what
// comes from anybody on something else than loopback.
func listening() ([]socket, error) {
	all, err := sockets()
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(s socket) bool {
		takes := s.protocol == "tcp" && s.state == stateListen || s.protocol == "udp" && s.state == stateClosed
		return !takes || s.local.Addr().IsLoopback()
	})
	name(all)
	return all, nil
}

// sockets returns all sockets of this thread's network namespace.
func sockets() ([]socket, error) {
	var all []socket
	for _, l := range []struct{ file, protocol string }{
		{"tcp", "tcp"}, {"tcp6", "tcp"}, {"udp", "udp"}, {"udp6", "udp"},
	} {
		text, err := os.ReadFile("/proc/thread-self/net/" + l.file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // no IPv6
		}
		if err != nil {
			return nil, fmt.Errorf("list sockets: %w", err)
		}
		for _, line := range strings.Split(string(text), "\n")[1:] {
			if s, ok := parseSocket(line); ok {
				s.protocol = l.protocol
				all = append(all, s)
			}
		}
	}
	return all, nil
}

// Columns of /proc/net/tcp and udp (proc(5)).
const (
	columnLocal  = 1
	columnRemote = 2
	columnState  = 3
	columnInode  = 9
)

// parseSocket reads one line of /proc/net/tcp.
func parseSocket(line string) (s socket, ok bool) {
	columns := strings.Fields(line)
	if len(columns) <= columnInode {
		return socket{}, false
	}
	var faults [4]error
	s.local, faults[0] = parseHexAddress(columns[columnLocal])
	s.remote, faults[1] = parseHexAddress(columns[columnRemote])
	s.state, faults[2] = strconv.ParseUint(columns[columnState], 16, 8)
	s.inode, faults[3] = strconv.ParseUint(columns[columnInode], 10, 64)
	return s, errors.Join(faults[:]...) == nil
}

var errAddress = errors.New("not an address of /proc/net")

// parseHexAddress reads "0100007F:0016": words of 32 bits in the machine's order.
func parseHexAddress(text string) (netip.AddrPort, error) {
	address, number, _ := strings.Cut(text, ":")
	port, err := strconv.ParseUint(number, 16, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%w: %q", errAddress, text)
	}
	b, err := hex.DecodeString(address)
	if err != nil || len(b) != 4 && len(b) != 16 {
		return netip.AddrPort{}, fmt.Errorf("%w: %q", errAddress, text)
	}
	for i := 0; i < len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	a, _ := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(a.Unmap(), uint16(port)), nil
}

// name fills in the programs, as far as /proc lets this process see them.
func name(sockets []socket) {
	wanted := map[string][]int{} // by the link's text
	for i, s := range sockets {
		link := fmt.Sprintf("socket:[%d]", s.inode)
		wanted[link] = append(wanted[link], i)
	}
	descriptors, _ := filepath.Glob("/proc/[0-9]*/fd/*") // fails for no pattern but a wrong one
	for _, path := range descriptors {
		link, err := os.Readlink(path)
		if err != nil || len(wanted[link]) == 0 {
			continue
		}
		comm, err := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(path)), "comm"))
		if err != nil {
			continue // it has ended
		}
		for _, i := range wanted[link] {
			sockets[i].program = strings.TrimSpace(string(comm))
		}
	}
}

// tunnelPort tells whether the tunnel's port is free, or the agent's.
func tunnelPort(e *examination) Finding {
	const name = "tunnel port"
	all, err := listening()
	if err != nil {
		return Finding{name, Skip, oneLine(err), ""}
	}
	port := e.listen().Port()
	i := slices.IndexFunc(all, func(s socket) bool { return s.protocol == "udp" && s.local.Port() == port })
	switch {
	case i < 0 && e.statusErr == nil:
		return Finding{name, Fail, fmt.Sprintf("the agent runs, but nothing has udp/%d", port), "restart the agent"}
	case i < 0:
		return Finding{name, OK, fmt.Sprintf("udp/%d is free", port), ""}
	case e.statusErr == nil:
		return Finding{name, OK, fmt.Sprintf("the agent has udp/%d", port), ""}
	}
	who := all[i].program
	if who == "" {
		who = "another program"
	}
	return Finding{name, Fail, fmt.Sprintf("%s has udp/%d", who, port), "end it, or choose another port in tunnel.listen"}
}
