package proxy

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
)

// Where the PAC file is found.
const (
	PathPAC  = "/proxy.pac"
	pathWPAD = "/wpad.dat"
)

// pacFile sends what belongs to services to the proxy, and everything else on its own
// way. A service's name must not fall back to DIRECT: it would be asked for outside.
const pacFile = `function FindProxyForURL(url, host) {
  var services = %s;
  host = host.toLowerCase().replace(/\.$/, "");
  if (dnsDomainIs(host, ".%s") || services.indexOf(host) >= 0) {
    return "PROXY %s; SOCKS5 %s";
  }
  return "DIRECT";
}
`

// servePAC answers requests in origin form. Any page can make a browser send them, so
// they get nothing but the PAC file, and that in no way that a page could read: not
// under a name of its own (DNS rebinding), and not as a script.
func (s *server) servePAC(w http.ResponseWriter, r *http.Request) {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	site := r.Header.Get("Sec-Fetch-Site")
	switch {
	case r.Method != http.MethodGet && r.Method != http.MethodHead, r.ContentLength != 0,
		r.URL.Path != PathPAC && r.URL.Path != pathWPAD:
		s.page(w, http.StatusForbidden, "this is a proxy; its PAC file is at "+PathPAC)
		return
	case local == nil || !isLocalName(r.Host, addrPort(local)):
		s.page(w, http.StatusForbidden, "the PAC file is for this machine, by its address")
		return
	case site != "" && site != "none", r.Header.Get("Origin") != "", r.Header.Get("Referer") != "":
		s.page(w, http.StatusForbidden, "the PAC file is not for pages")
		return
	}
	names := []string{}
	if s.Password.IsZero() { // with one, names are for who has it
		for _, name := range s.list.names(r.Context()) {
			if !strings.Contains(name, ".") {
				names = append(names, name)
			}
		}
	}
	list, err := json.Marshal(names)
	if err != nil {
		s.page(w, http.StatusInternalServerError, "the list of services cannot be written")
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/x-ns-proxy-autoconfig")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	h.Set("Connection", "close")
	fmt.Fprintf(w, pacFile, list, Domain, addrPort(local), addrPort(local))
}

// isLocalName reports whether a Host header is an address that the connection came in
// at, and no name that a stranger's DNS could have led here.
func isLocalName(header string, local netip.AddrPort) bool {
	host, text, err := net.SplitHostPort(header)
	if err != nil {
		return false
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || uint16(port) != local.Port() {
		return false
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return host == "localhost" && local.Addr().IsLoopback()
	}
	return ip.Unmap() == local.Addr()
}
