package names

import (
	"crypto/sha256"
	"encoding/binary"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
)

// Range is where services' addresses are: loopback addresses (RFC 6890), none of
// which a machine uses by itself.
var Range = netip.MustParsePrefix("127.64.0.0/10")

// Server is where the DNS server listens: not at an address that a service can get.
var Server = serverOn(runtime.GOOS)

// serverOn avoids what a system has not: other loopback addresses than the one, on
// macOS, whose own mDNS responder may have port 5354 there.
func serverOn(system string) netip.AddrPort {
	if system == "darwin" {
		return netip.MustParseAddrPort("127.0.0.1:15354")
	}
	return netip.MustParseAddrPort("127.63.0.53:5354")
}

// Places says where services are on this machine: at an address each, with port 0 for
// the service's own; or, where the system has one loopback address only, at a port of
// that each.
func Places(services []string) map[string]netip.AddrPort {
	places := make(map[string]netip.AddrPort, len(services))
	if manyAddresses() {
		for name, a := range Plan(services) {
			places[name] = netip.AddrPortFrom(a, 0)
		}
		return places
	}
	for name, p := range Ports(services) {
		places[name] = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), p)
	}
	return places
}

// manyAddresses reports whether all of 127.0.0.0/8 is this machine's, as on Linux and
// Windows.
func manyAddresses() bool {
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: Range.Addr().Next().AsSlice()})
	if err != nil {
		return false
	}
	l.Close()
	return true
}

// Plan gives each service its address. It depends on the name alone but for services
// that would share one, of which the first in the alphabet has it.
func Plan(services []string) map[string]netip.Addr {
	sorted := slices.Compact(slices.Sorted(slices.Values(services)))
	plan := make(map[string]netip.Addr, len(sorted))
	taken := make(map[netip.Addr]bool, len(sorted))
	for _, name := range sorted {
		for try := 0; ; try++ {
			a := address(name, try)
			if !taken[a] {
				plan[name], taken[a] = a, true
				break
			}
		}
	}
	return plan
}

// address hashes a name into Range. The last byte is neither 0 nor 255, which some
// programs take for no address of a machine's.
func address(name string, try int) netip.Addr {
	if try > 0 {
		name += "#" + strconv.Itoa(try)
	}
	digest := sha256.Sum256([]byte("postern address " + name))
	n := binary.BigEndian.Uint32(digest[:])
	base := Range.Addr().As4()
	return netip.AddrFrom4([4]byte{base[0], base[1] | byte(n>>16)&0x3f, byte(n >> 8), 1 + byte(n%254)})
}

// Ports from which the stable ones are taken, for where each service cannot have an
// address of its own: below the range that systems hand out (RFC 6335 has it from 49152,
// Linux from 32768).
const (
	firstPort = 20000
	portCount = 12000
)

// Ports gives each service a port of one address, in the way of [Plan].
func Ports(services []string) map[string]uint16 {
	sorted := slices.Compact(slices.Sorted(slices.Values(services)))
	plan := make(map[string]uint16, len(sorted))
	taken := make(map[uint16]bool, len(sorted))
	for _, name := range sorted {
		for try := 0; ; try++ {
			a := address(name, try).As4()
			port := uint16(firstPort + (uint32(a[1]&0x3f)<<16|uint32(a[2])<<8|uint32(a[3]))%portCount)
			if !taken[port] {
				plan[name], taken[port] = port, true
				break
			}
		}
	}
	return plan
}
