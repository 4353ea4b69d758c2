package identity

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/postern-sdp/postern/spa/key"
)

const (
	maxName   = 63  // bytes; a service's name fits into a knock
	maxHost   = 253 // bytes of a domain name (RFC 1035, section 2.3.4)
	maxTarget = 300 // bytes of one that is quoted in an error
)

// CheckName reports whether s can name a machine, a user or a service. What looks
// like an id cannot: names and ids are taken in the same place, and a joiner that
// calls itself by another's id must not be revoked in its stead, or not revoked.
func CheckName(s string) error {
	if s == "" || len(s) > maxName {
		return fmt.Errorf("%q: %w", s[:min(len(s), maxName)], ErrName)
	}
	for i, r := range s {
		alphanumeric := 'a' <= r && r <= 'z' || '0' <= r && r <= '9'
		if !alphanumeric && (i == 0 || r != '-' && r != '.') {
			return fmt.Errorf("%q: %w", s, ErrName)
		}
	}
	if _, err := key.ParseID(s); err == nil {
		return fmt.Errorf("%q: %w", s, ErrNameID)
	}
	return nil
}

// proposedName makes a name out of what a joiner calls itself.
func proposedName(s string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(s) {
		switch {
		case 'a' <= r && r <= 'z', '0' <= r && r <= '9':
			b.WriteRune(r)
		case b.Len() > 0:
			b.WriteByte('-')
		}
		if b.Len() == maxName-4 { // room for a number
			break
		}
	}
	name := strings.TrimRight(b.String(), "-")
	if CheckName(name) != nil {
		return "machine"
	}
	return name
}

// checkTarget reports whether s is an address that a host can dial.
func checkTarget(s string) error {
	host, port, err := net.SplitHostPort(s)
	n, errPort := strconv.ParseUint(port, 10, 16)
	if err != nil || errPort != nil || n == 0 || !dialable(host) {
		return fmt.Errorf("%q: %w", s[:min(len(s), maxTarget)], ErrTarget)
	}
	return nil
}

// dialable reports whether host is the address of one machine, or a domain name.
func dialable(host string) bool {
	if a, err := netip.ParseAddr(host); err == nil {
		broadcast := netip.AddrFrom4([4]byte{255, 255, 255, 255})
		return !a.IsUnspecified() && !a.IsMulticast() && a.Unmap() != broadcast
	}
	odd := func(r rune) bool {
		alphanumeric := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
		return !alphanumeric && r != '-' && r != '.' && r != '_'
	}
	return host != "" && len(host) <= maxHost && !strings.ContainsFunc(host, odd) && host[0] != '-'
}
