package host

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/postern-sdp/postern/internal/control"
)

// Listening says who listens on a port of this machine.
type Listening int

// What there may be.
const (
	ListensNobody  Listening = iota
	ListensLocally           // on loopback addresses only: no pinhole leads there
	ListensOpenly            // on an address that others reach
)

// WhoListens looks a port up in the kernel's tables (proc(5), /proc/net/tcp).
func WhoListens(p control.ServicePort) (Listening, error) {
	most := ListensNobody
	for _, table := range []string{string(p.Transport), string(p.Transport) + "6"} {
		path := "/proc/net/" + table
		f, err := os.Open(path)
		if os.IsNotExist(err) {
			continue // no IPv6
		}
		if err != nil {
			return most, fmt.Errorf("look for listeners: %w", err)
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			if a, ok := listener(lines.Text(), p.Transport); ok && a.Port() == p.Port {
				most = max(most, ListensLocally)
				if !a.Addr().Unmap().IsLoopback() {
					most = ListensOpenly
				}
			}
		}
		err = lines.Err()
		f.Close()
		if err != nil {
			return most, fmt.Errorf("look for listeners: %w", err)
		}
	}
	return most, nil
}

// listener reads one row: the local address of a socket that takes connections, or
// datagrams from anybody.
func listener(row string, transport control.Transport) (netip.AddrPort, bool) {
	const listen, unconnected = "0A", "07" // TCP_LISTEN, TCP_CLOSE
	fields := strings.Fields(row)
	if len(fields) < 4 || fields[3] != listen && transport == control.TransportTCP ||
		fields[3] != unconnected && transport == control.TransportUDP {
		return netip.AddrPort{}, false
	}
	address, port, _ := strings.Cut(fields[1], ":")
	raw, err := hex.DecodeString(address)
	n, portErr := strconv.ParseUint(port, 16, 16)
	if err != nil || portErr != nil || len(raw) != 4 && len(raw) != 16 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(raw); i += 4 { // words of four bytes, each in the machine's own order
		raw[i], raw[i+1], raw[i+2], raw[i+3] = raw[i+3], raw[i+2], raw[i+1], raw[i]
	}
	a, _ := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(a, uint16(n)), true
}
