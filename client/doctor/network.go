package doctor

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/postern-sdp/postern/spa"
)

// Network is what kind of network this is for Postern.
type Network string

// The kinds. All but the good one keep knocks from arriving, or answers.
const (
	Good         Network = "good"       // UDP gets out and answers come in, wherever somebody could be asked
	NoNetwork    Network = "no network" // there is no way out at all
	Portal       Network = "captive portal"
	NoUDP        Network = "udp blocked"  // TCP gets out, UDP does not
	PortsBlocked Network = "port blocked" // UDP gets out, to some ports only
	Refused      Network = "port refused" // somebody on the way says so
	NoNames      Network = "names broken" // addresses work, names do not
	Unknown      Network = "unknown"      // nothing could be found out
)

// Probes are whom to ask. They are other people's servers on the internet, which
// learn this machine's address and nothing more.
type Probes struct {
	Web   []Page   // pages whose content is known
	Plain []string // host:port of DNS servers, asked over UDP, and over TCP
	STUN  []string // host:port of STUN servers (RFC 8489), on another port than DNS
}

// Page is a page with a known answer.
type Page struct {
	URL  string
	Code int
	Body string // without white space around it
}

// DefaultProbes are servers made to be asked this.
func DefaultProbes() Probes {
	return Probes{
		Web: []Page{
			{"http://cp.cloudflare.com/generate_204", http.StatusNoContent, ""},
			{"http://detectportal.firefox.com/success.txt", http.StatusOK, "success"},
		},
		Plain: []string{"1.1.1.1:53", "9.9.9.9:53"},
		STUN:  []string{"stun.cloudflare.com:3478", "stun.l.google.com:19302"},
	}
}

// probeLimit bounds each question, its repetitions included.
const probeLimit = 2 * time.Second

// seen is what the probes brought.
type seen struct {
	route        bool // towards the controller
	web, altered bool // a page came as it should, or not
	moved        string
	named        bool // a name was looked up
	nameFailed   bool
	dnsUDP       bool
	dnsTCP       bool
	stun         bool
	udp          map[string]bool // whether UDP to a port number was answered, by anybody
	knocked      []string        // the controller's port numbers
	outer        netip.AddrPort  // as STUN servers see us
	refused      string          // who said that the controller's port is shut
}

// look asks all of them at once.
func look(ctx context.Context, p Probes, controller []netip.AddrPort) seen {
	ctx, cancel := context.WithTimeout(ctx, 2*probeLimit)
	defer cancel()
	var mu sync.Mutex
	s := seen{udp: make(map[string]bool), knocked: portsOf(controller)}
	note := func(f func()) { mu.Lock(); defer mu.Unlock(); f() }
	var all sync.WaitGroup
	for _, page := range p.Web {
		all.Go(func() {
			ok, altered, moved, err := page.get(ctx)
			note(func() {
				s.web, s.altered = s.web || ok, s.altered || altered
				if moved != "" {
					s.moved = moved
				}
				var name *net.DNSError
				if errors.As(err, &name) {
					s.nameFailed = true
				} else if err == nil {
					s.named = true
				}
			})
		})
	}
	for _, server := range p.Plain {
		all.Go(func() {
			ok := askDNS(ctx, "udp", server)
			note(func() { s.dnsUDP = s.dnsUDP || ok; s.udpTo(server, ok) })
		})
		all.Go(func() { ok := askDNS(ctx, "tcp", server); note(func() { s.dnsTCP = s.dnsTCP || ok }) })
	}
	for _, server := range p.STUN {
		all.Go(func() {
			outer, ok := askSTUN(ctx, server)
			note(func() {
				s.udpTo(server, ok)
				if ok {
					s.stun, s.outer = true, outer
				}
			})
		})
	}
	for _, a := range controller {
		all.Go(func() {
			route, refused := disturb(ctx, a)
			note(func() {
				s.route = s.route || route
				if refused != "" {
					s.refused = refused
				}
			})
		})
	}
	all.Wait()
	return s
}

func (s seen) udpTo(server string, answered bool) {
	if _, port, err := net.SplitHostPort(server); err == nil {
		s.udp[port] = s.udp[port] || answered
	}
}

// to names the port numbers that were answered at, or not.
func (s seen) to(answered bool) string {
	var all []string
	for port, was := range s.udp {
		if was == answered {
			all = append(all, port)
		}
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

// untold are those of the controller's port numbers at which nobody else was asked, and
// blocked those at which nobody answered.
func (s seen) untold() (untold, blocked []string) {
	for _, port := range s.knocked {
		answered, asked := s.udp[port]
		switch {
		case !asked:
			untold = append(untold, port)
		case !answered:
			blocked = append(blocked, port)
		}
	}
	return untold, blocked
}

func portsOf(addresses []netip.AddrPort) []string {
	var all []string
	for _, a := range addresses {
		all = append(all, strconv.Itoa(int(a.Port())))
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// judge names the network: the likeliest reason first.
func (s seen) judge() (n Network, found, do string) {
	untold, blocked := s.untold()
	out := s.web || s.dnsTCP || s.dnsUDP || s.stun
	switch {
	case s.altered:
		found = "a known web page came back altered"
		if s.moved != "" {
			found = "a known web page sends us to " + s.moved
		}
		return Portal, found + ": this network wants you to sign in first", "open any http:// page in a browser and sign in"
	case !s.route && !out:
		return NoNetwork, "there is no route to the controller, and nothing else answers", "connect this machine to a network"
	case !out:
		return NoNetwork, "nobody on the internet answers, over TCP or UDP", "check the connection; a firewall on the way may drop everything"
	case s.refused != "":
		return Refused, s.refused, "ask who runs that firewall to let UDP out to the controller's port, or use another network"
	case s.nameFailed && !s.named:
		return NoNames, "addresses answer, but names do not resolve", "check this machine's DNS settings"
	case !s.dnsUDP && !s.stun:
		return NoUDP, "TCP gets out of here, UDP does not", "use another network (a phone's, for one), or ask for UDP to be let out"
	case !s.stun, len(blocked) > 0:
		return PortsBlocked, fmt.Sprintf("UDP gets out to port %s, and not to %s", s.to(true), s.to(false)),
			"ask for UDP to the controller's port to be let out, or use another network"
	}
	found = fmt.Sprintf("UDP gets out to port %s and answers come in", s.to(true))
	if s.outer.IsValid() {
		found += fmt.Sprintf("; others see this machine as %s", s.outer.Addr())
	}
	do = "then it is the controller that is down, the clock, or a device that was removed: ask your administrator"
	if len(untold) > 0 {
		port := strings.Join(untold, ", ")
		found += fmt.Sprintf("; whether to port %s, the controller's, too, nobody else can be asked", port)
		do = fmt.Sprintf("then it is the controller that is down, port %s alone that is blocked, the clock, or a device that was removed: ask your administrator, "+
			"try another network, or have --probe stun=ADDRESS:PORT ask a server of yours at that port", port)
	}
	return Good, found, do
}

// get fetches the page. altered says that somebody answered in its place.
func (p Page) get(ctx context.Context) (ok, altered bool, moved string, err error) {
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, p.URL, nil)
	if err != nil {
		return false, false, "", err
	}
	transport := &http.Transport{DisableKeepAlives: true} // no proxy: the network itself is asked
	defer transport.CloseIdleConnections()
	c := http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
	answer, err := c.Do(r)
	if err != nil {
		return false, false, "", err
	}
	defer answer.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(answer.Body, 4<<10))
	if answer.StatusCode == p.Code && string(bytes.TrimSpace(body)) == p.Body {
		return true, false, "", nil
	}
	if answer.StatusCode >= 500 {
		return true, false, "", nil // a server in trouble is no portal
	}
	return false, true, printable(answer.Header.Get("Location")), nil
}

// printable keeps a terminal safe from what a stranger sent.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	return s[:min(len(s), 120)]
}

// askDNS asks a server who serves the root. Any well-formed answer will do.
func askDNS(ctx context.Context, network, server string) bool {
	var id [2]byte
	_, _ = rand.Read(id[:])
	question := dnsmessage.Message{
		Header: dnsmessage.Header{ID: binary.BigEndian.Uint16(id[:]), RecursionDesired: true},
		Questions: []dnsmessage.Question{{
			Name: dnsmessage.MustNewName("."), Type: dnsmessage.TypeNS, Class: dnsmessage.ClassINET,
		}},
	}
	b, err := question.Pack()
	if err != nil {
		return false
	}
	if network == "tcp" {
		b = append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
	}
	return ask(ctx, network, server, b, func(answer []byte) bool {
		if network == "tcp" && len(answer) > 2 {
			answer = answer[2:]
		}
		var p dnsmessage.Parser
		h, err := p.Start(answer)
		return err == nil && h.Response && h.ID == question.ID
	})
}

// Of RFC 8489.
const (
	stunBinding   = 0x0001
	stunSuccess   = 0x0101
	stunCookie    = 0x2112A442
	stunHeader    = 20
	stunXORMapped = 0x0020
)

// askSTUN asks a server at which address it sees us.
func askSTUN(ctx context.Context, server string) (outer netip.AddrPort, ok bool) {
	request := make([]byte, stunHeader)
	binary.BigEndian.PutUint16(request, stunBinding)
	binary.BigEndian.PutUint32(request[4:], stunCookie)
	_, _ = rand.Read(request[8:])
	ok = ask(ctx, "udp", server, request, func(answer []byte) bool {
		if len(answer) < stunHeader || binary.BigEndian.Uint16(answer) != stunSuccess || !bytes.Equal(answer[4:20], request[4:20]) {
			return false
		}
		outer = mapped(answer)
		return true
	})
	return outer, ok
}

// mapped reads the XOR-MAPPED-ADDRESS of a success (section 14.2), if there is one.
func mapped(answer []byte) netip.AddrPort {
	for rest := answer[stunHeader:]; len(rest) >= 4; {
		kind, length := binary.BigEndian.Uint16(rest), int(binary.BigEndian.Uint16(rest[2:]))
		if len(rest) < 4+length {
			break
		}
		value := rest[4 : 4+length]
		if kind == stunXORMapped && (length == 8 || length == 20) {
			port := binary.BigEndian.Uint16(value[2:]) ^ stunCookie>>16
			raw := bytes.Clone(value[4:])
			for i := range raw {
				raw[i] ^= answer[4+i]
			}
			a, _ := netip.AddrFromSlice(raw)
			return netip.AddrPortFrom(a, port)
		}
		rest = rest[min(len(rest), 4+(length+3)/4*4):]
	}
	return netip.AddrPort{}
}

// ask sends a question, over UDP three times, and reports whether an answer is right.
func ask(ctx context.Context, network, server string, question []byte, right func([]byte) bool) bool {
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, server)
	if err != nil {
		return false
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	buf := make([]byte, 4<<10)
	for range 3 {
		if _, err := conn.Write(question); err != nil {
			return false
		}
		_ = conn.SetReadDeadline(time.Now().Add(probeLimit / 3))
		for {
			n, err := conn.Read(buf)
			if err != nil {
				break
			}
			if right(buf[:n]) {
				return true
			}
		}
		if network == "tcp" || ctx.Err() != nil {
			return false
		}
	}
	return false
}

// disturb sends a datagram that means nothing to the controller's port: it does not
// answer, but a firewall on the way that refuses does.
func disturb(ctx context.Context, controller netip.AddrPort) (route bool, refused string) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "udp", controller.String())
	if err != nil {
		return false, ""
	}
	defer conn.Close()
	noise := make([]byte, spa.Size)
	_, _ = rand.Read(noise)
	for range 2 {
		_, err := conn.Write(noise)
		if err == nil {
			_ = conn.SetReadDeadline(time.Now().Add(probeLimit / 4))
			_, err = conn.Read(noise)
		}
		switch {
		case errors.Is(err, syscall.ECONNREFUSED):
			return true, fmt.Sprintf("somebody on the way refuses UDP to %s (port unreachable)", controller)
		case errors.Is(err, syscall.EHOSTUNREACH):
			return true, fmt.Sprintf("somebody on the way refuses UDP to %s (host unreachable)", controller)
		case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
			return true, fmt.Sprintf("this machine's own firewall, or one on the way, forbids UDP to %s", controller)
		case errors.Is(err, syscall.ENETUNREACH):
			return false, ""
		}
	}
	return true, ""
}
