package names

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// ttl of answers, in seconds: names come and go.
	ttl = 30
	// maxTCP bounds the TCP connections at once.
	maxTCP  = 64
	timeout = 5 * time.Second
)

// DNS answers for one domain: the addresses of its services (A), nothing of other
// types, NXDOMAIN for other names, and REFUSED for other domains. It forwards nothing.
// The methods may be called concurrently.
type DNS struct {
	domain string // fully qualified, in lower case

	mu    sync.RWMutex // guards what follows
	hosts map[string]netip.Addr
}

// NewDNS returns a DNS for the domain, which knows no names yet.
func NewDNS(domain string) *DNS {
	return &DNS{domain: dns.CanonicalName(domain), hosts: make(map[string]netip.Addr)}
}

// Set replaces the services and their addresses.
func (d *DNS) Set(services map[string]netip.Addr) {
	hosts := make(map[string]netip.Addr, len(services))
	for name, a := range services {
		hosts[dns.CanonicalName(name+"."+d.domain)] = a
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hosts = hosts
}

// Serve answers at address, over UDP and TCP, until ctx ends. listening is called
// when it does.
func (d *DNS) Serve(ctx context.Context, address netip.AddrPort, listening func(netip.AddrPort)) error {
	packets, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(address))
	if err != nil {
		return fmt.Errorf("listen for DNS: %w", err)
	}
	bound := packets.LocalAddr().(*net.UDPAddr).AddrPort()
	streams, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(bound))
	if err != nil {
		packets.Close()
		return fmt.Errorf("listen for DNS: %w", err)
	}
	servers := []*dns.Server{
		{PacketConn: packets, Handler: d, ReadTimeout: timeout},
		{Listener: &limited{TCPListener: streams, room: make(chan struct{}, maxTCP)}, Handler: d,
			ReadTimeout: timeout, WriteTimeout: timeout},
	}
	listening(bound)
	ended := make(chan error, len(servers))
	for _, s := range servers {
		go func() { ended <- s.ActivateAndServe() }()
	}
	var all []error
	select {
	case <-ctx.Done():
	case err := <-ended:
		all = append(all, err)
	}
	packets.Close()
	streams.Close()
	for range len(servers) - len(all) {
		all = append(all, <-ended)
	}
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("serve DNS: %w", errors.Join(all...))
}

// ServeDNS implements [dns.Handler].
func (d *DNS) ServeDNS(w dns.ResponseWriter, r *dns.Msg) {
	if answer := d.answer(r); answer != nil {
		_ = w.WriteMsg(answer) // who asked asks again
	}
}

// answer returns nil for what is no question.
func (d *DNS) answer(r *dns.Msg) *dns.Msg {
	if r.Response {
		return nil
	}
	m := new(dns.Msg)
	if r.Opcode != dns.OpcodeQuery {
		return m.SetRcode(r, dns.RcodeNotImplemented)
	}
	if len(r.Question) != 1 {
		return m.SetRcode(r, dns.RcodeFormatError)
	}
	q := r.Question[0]
	name := strings.ToLower(q.Name)
	if q.Qclass != dns.ClassINET || !dns.IsSubDomain(d.domain, name) {
		return m.SetRcode(r, dns.RcodeRefused)
	}
	m.SetReply(r)
	m.Authoritative = true
	if opt := r.IsEdns0(); opt != nil {
		m.SetEdns0(dns.DefaultMsgSize, false)
	}
	d.mu.RLock()
	address, known := d.hosts[name]
	d.mu.RUnlock()
	head := dns.RR_Header{Name: q.Name, Class: dns.ClassINET, Ttl: ttl}
	switch {
	case known && (q.Qtype == dns.TypeA || q.Qtype == dns.TypeANY):
		head.Rrtype = dns.TypeA
		m.Answer = append(m.Answer, &dns.A{Hdr: head, A: address.AsSlice()})
		return m
	case name == d.domain && q.Qtype == dns.TypeSOA:
		m.Answer = append(m.Answer, d.soa())
		return m
	case !known && name != d.domain:
		m.Rcode = dns.RcodeNameError
	}
	m.Ns = append(m.Ns, d.soa()) // RFC 2308: nothing is cached for long
	return m
}

func (d *DNS) soa() dns.RR {
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: d.domain, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: ttl},
		Ns:  d.domain, Mbox: "postern." + d.domain, Serial: 1, Refresh: ttl, Retry: ttl, Expire: ttl, Minttl: ttl / 6,
	}
}

// limited takes no more connections than there is room for.
type limited struct {
	*net.TCPListener
	room chan struct{}
}

// Accept implements [net.Listener].
func (l *limited) Accept() (net.Conn, error) {
	for {
		conn, err := l.TCPListener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case l.room <- struct{}{}:
			return &guest{Conn: conn, leave: sync.OnceFunc(func() { <-l.room })}, nil
		default:
			conn.Close()
		}
	}
}

type guest struct {
	net.Conn
	leave func()
}

// Close implements [net.Conn].
func (g *guest) Close() error {
	defer g.leave()
	return g.Conn.Close()
}
