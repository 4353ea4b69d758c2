package survey

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"

	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
)

// findPublished reads the rules that send on what is for a port of the machine's:
// those with a DNAT in chains that prerouting leads to.
func (m *Machine) findPublished() {
	for _, t := range m.tables {
		for _, name := range t.reached("prerouting") {
			if m.isOurs(name) {
				continue
			}
			for _, r := range t.chains[name].rules {
				for _, p := range publishedBy(r) {
					p.Family, p.Owner = t.family, ownerOf(t.name, []string{name})
					if !slices.Contains(m.Published, p) {
						m.Published = append(m.Published, p)
					}
				}
			}
		}
	}
}

// reached returns the chains that packets at a hook may come to.
func (t *table) reached(hook string) []string {
	var names []string
	for _, c := range t.sorted() {
		if c.hook == hook {
			names = append(names, c.name)
		}
	}
	for i := 0; i < len(names); i++ {
		for _, r := range t.chains[names[i]].rules {
			for _, next := range targets(r) {
				if t.chains[next] != nil && !slices.Contains(names, next) {
					names = append(names, next)
				}
			}
		}
	}
	return names
}

// targets are the chains that a rule calls.
func targets(r rule) []string {
	var all []string
	switch r := r.(type) {
	case textRule:
		for _, o := range r.options() {
			if o.name == "-j" || o.name == "-g" {
				all = append(all, o.value)
			}
		}
	case nftRule:
		for _, e := range r.exprs {
			switch e := e.(type) {
			case *expr.Verdict:
				all = append(all, e.Chain)
			case *expr.Lookup:
				if s := r.sets(e.SetName); s != nil && e.IsDestRegSet && e.DestRegister == 0 {
					for _, x := range s.elements {
						if v := elementVerdict(x); v != nil {
							all = append(all, v.Chain)
						}
					}
				}
			}
		}
	}
	return all
}

func publishedBy(r rule) []Published {
	switch r := r.(type) {
	case textRule:
		return r.published()
	case nftRule:
		return r.published()
	}
	return nil
}

func (r textRule) published() []Published {
	var p Published
	var ports, target string
	for _, o := range r.options() {
		switch o.name {
		case "-p":
			p.Protocol = o.value
		case "--dport", "--dports":
			ports = o.value
		case "-j":
			target = o.value
		case "--to-destination":
			p.To = o.value
		}
	}
	if target != "DNAT" {
		return nil
	}
	if ports == "" {
		ports = "0:65535"
	}
	var all []Published
	for part := range strings.SplitSeq(ports, ",") {
		if from, to, ok := portRange(part); ok {
			p.First, p.Last = from, to
			all = append(all, p)
		}
	}
	return all
}

// reading is what a rule's expressions have said so far.
type reading struct {
	p         Published
	ports     [][2]uint16
	isPort    map[uint32]bool // registers that hold the local port
	isNumber  map[uint32]bool // registers that hold the protocol
	constants map[uint32][]byte
	dnat      bool
}

func (r nftRule) published() []Published {
	s := &reading{isPort: map[uint32]bool{}, isNumber: map[uint32]bool{}, constants: map[uint32][]byte{}}
	for _, e := range r.exprs {
		r.read(e, s)
	}
	if !s.dnat {
		return nil
	}
	if len(s.ports) == 0 {
		s.ports = [][2]uint16{{0, 0xffff}}
	}
	var all []Published
	for _, ports := range s.ports {
		p := s.p
		p.First, p.Last = ports[0], ports[1]
		all = append(all, p)
	}
	return all
}

func (r nftRule) read(e expr.Any, s *reading) {
	switch e := e.(type) {
	case *expr.Meta:
		s.isNumber[e.Register] = e.Key == expr.MetaKeyL4PROTO
		s.isPort[e.Register] = false
	case *expr.Payload:
		s.isPort[e.DestRegister] = e.Base == expr.PayloadBaseTransportHeader && e.Offset == 2 && e.Len == 2
		s.isNumber[e.DestRegister] = false
	case *expr.Cmp:
		switch {
		case e.Op == expr.CmpOpEq && s.isNumber[e.Register] && len(e.Data) == 1:
			s.p.Protocol = protocolName(e.Data[0])
		case e.Op == expr.CmpOpEq && s.isPort[e.Register] && len(e.Data) == 2:
			n := binary.BigEndian.Uint16(e.Data)
			s.ports = append(s.ports, [2]uint16{n, n})
		}
	case *expr.Range:
		if s.isPort[e.Register] && len(e.FromData) == 2 && len(e.ToData) == 2 {
			s.ports = append(s.ports, [2]uint16{binary.BigEndian.Uint16(e.FromData),
				binary.BigEndian.Uint16(e.ToData)})
		}
	case *expr.Lookup:
		if found := r.sets(e.SetName); found != nil && s.isPort[e.SourceRegister] {
			for _, x := range spans(found.elements, found.interval) {
				if len(x.from) >= 2 && len(x.to) >= 2 {
					s.ports = append(s.ports, [2]uint16{binary.BigEndian.Uint16(x.from),
						binary.BigEndian.Uint16(x.to)})
				}
			}
		}
	case *expr.Immediate:
		s.constants[e.Register] = e.Data
	case *expr.Match:
		s.match(e.Info)
	case *expr.NAT:
		if e.Type == expr.NATTypeDestNAT {
			s.dnat = true
			s.p.To = destination(s.constants[e.RegAddrMin], s.constants[e.RegProtoMin])
		}
	case *expr.Target:
		if e.Name == "DNAT" {
			s.dnat = true
			s.p.To = targetDestination(e.Info)
		}
	}
}

func (s *reading) match(info xt.InfoAny) {
	switch info := info.(type) {
	case *xt.Tcp:
		s.p.Protocol, s.ports = "tcp", append(s.ports, info.DstPorts)
	case *xt.Udp:
		s.p.Protocol, s.ports = "udp", append(s.ports, info.DstPorts)
	}
}

func protocolName(number byte) string {
	switch number {
	case syscall.IPPROTO_TCP:
		return "tcp"
	case syscall.IPPROTO_UDP:
		return "udp"
	}
	return fmt.Sprintf("protocol %d", number)
}

// destination is an address and port as immediate values hold them.
func destination(address, port []byte) string {
	a, ok := netip.AddrFromSlice(address)
	if !ok {
		return ""
	}
	if len(port) < 2 {
		return a.String()
	}
	return netip.AddrPortFrom(a, binary.BigEndian.Uint16(port)).String()
}

func targetDestination(info xt.InfoAny) string {
	address := func(ip net.IP, port uint16) string {
		a, ok := netip.AddrFromSlice(ip)
		if !ok {
			return ""
		}
		if port == 0 {
			return a.Unmap().String()
		}
		return netip.AddrPortFrom(a.Unmap(), port).String()
	}
	switch info := info.(type) {
	case *xt.NatRange2:
		return address(info.MinIP, info.MinPort)
	case *xt.NatRange:
		return address(info.MinIP, info.MinPort)
	}
	return ""
}
