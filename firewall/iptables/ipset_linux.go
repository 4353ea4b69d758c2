package iptables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/postern-sdp/postern/firewall"
)

// Attributes of sets that the library numbers otherwise than
// include/uapi/linux/netfilter/ipset/ip_set.h.
const (
	attrMaxElem    = 19
	attrElements   = 24
	attrReferences = 25
	attrName       = 18 // of an element that is a set
)

// Flags of a listing.
const (
	listNamesOnly   = 1 << 1
	listHeadersOnly = 1 << 2
)

// errHashFull is IPSET_ERR_HASH_FULL.
const errHashFull = syscall.Errno(nl.IPSET_ERR_TYPE_SPECIFIC)

// perMessage is how many elements go into one message, whose list of elements
// has a 16-bit length: 600 of up to 60 bytes.
const perMessage = 600

// longestTimeout is the kernel's: half of 32 bits of milliseconds, 24.8 days.
const longestTimeout = 2147483 * time.Second

// sets speaks to the kernel's IP sets over one socket. Its methods are not for
// concurrent use.
type sets struct {
	socket *nl.SocketHandle
}

// openSets opens a socket in the namespace of the calling thread.
func openSets() (*sets, error) {
	socket, err := nl.Subscribe(unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	limit := unix.NsecToTimeval(int64(patience))
	if err := errors.Join(socket.SetSendTimeout(&limit), socket.SetReceiveTimeout(&limit)); err != nil {
		socket.Close()
		return nil, err
	}
	return &sets{&nl.SocketHandle{Socket: socket}}, nil
}

func (s *sets) close() { s.socket.Close() }

// execute sends one message of netfilter's and returns the answers without their
// headers of 4 bytes.
func (s *sets) execute(subsystem, command, flags int, family byte, attributes ...*nl.RtAttr) (
	[][]byte, error) {
	request := nl.NewNetlinkRequest(subsystem<<8|command, flags)
	request.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_NETFILTER: s.socket}
	request.AddRawData([]byte{family, unix.NFNETLINK_V0, 0, 0})
	for _, a := range attributes {
		request.AddRawData(a.Serialize())
	}
	answers, err := request.Execute(unix.NETLINK_NETFILTER, 0)
	if err != nil {
		return nil, explain(err)
	}
	for i, a := range answers {
		answers[i] = a[min(nfgenSize, len(a)):]
	}
	return answers, nil
}

// nfgenSize is the size of struct nfgenmsg, which precedes the attributes.
const nfgenSize = 4

func (s *sets) command(command, flags int, set string, attributes ...*nl.RtAttr) ([][]byte, error) {
	head := []*nl.RtAttr{nl.NewRtAttr(nl.IPSET_ATTR_PROTOCOL, []byte{nl.IPSET_PROTOCOL})}
	if set != "" {
		head = append(head, nl.NewRtAttr(nl.IPSET_ATTR_SETNAME, nl.ZeroTerminated(set)))
	}
	answers, err := s.execute(unix.NFNL_SUBSYS_IPSET, command, flags, unix.AF_INET,
		append(head, attributes...)...)
	if err != nil && set != "" {
		return nil, fmt.Errorf("set %s: %w", set, err)
	}
	return answers, err
}

// explain names the errors that somebody acts upon.
func explain(err error) error {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return err
	}
	switch errno {
	case unix.EPERM, unix.EACCES:
		return fmt.Errorf("%w (%w)", firewall.ErrPermission, err)
	case unix.ENOENT:
		return errMissing
	case unix.EEXIST, nl.IPSET_ERR_TYPE_MISMATCH:
		return ErrForeignSet
	case nl.IPSET_ERR_EXIST:
		return errThere
	case nl.IPSET_ERR_BUSY, nl.IPSET_ERR_REFERENCED:
		return errInUse
	case nl.IPSET_ERR_FIND_TYPE, unix.EOPNOTSUPP, unix.EPROTONOSUPPORT, unix.EINVAL:
		return fmt.Errorf("%w (%w)", ErrKernel, err)
	case errHashFull:
		return ErrFull
	}
	if errno > nl.IPSET_ERR_PRIVATE {
		return nl.IPSetError(errno)
	}
	return err
}

// kind is a type of sets. The revision is the oldest that does: kernels keep old
// ones.
type kind struct {
	name     string
	revision byte
	family   byte
}

func addressPortSet(v6 bool) kind { return kind{"hash:ip,port", 1, family(v6)} }
func addressSet(v6 bool) kind     { return kind{"hash:ip", 0, family(v6)} }
func networkSet(v6 bool) kind     { return kind{"hash:net", 1, family(v6)} }
func portSet() kind               { return kind{"bitmap:port", 0, unix.AF_UNSPEC} }
func listSet() kind               { return kind{"list:set", 0, unix.AF_UNSPEC} }

func family(v6 bool) byte {
	if v6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// supported returns ErrKernel when there are not all kinds of sets. Without the
// rights nothing is known, and nothing is said.
func (s *sets) supported() error {
	for _, k := range []kind{addressPortSet(false), addressPortSet(true), addressSet(false),
		addressSet(true), networkSet(false), networkSet(true), portSet(), listSet()} {
		_, err := s.command(nl.IPSET_CMD_TYPE, 0, "",
			nl.NewRtAttr(nl.IPSET_ATTR_TYPENAME, nl.ZeroTerminated(k.name)),
			nl.NewRtAttr(nl.IPSET_ATTR_FAMILY, []byte{k.family}))
		if errors.Is(err, firewall.ErrPermission) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("sets %s: %w", k.name, err)
		}
	}
	return nil
}

// create makes a set; one of the same layout may be there already. Elements of
// one that is timed may have timeouts. Capacity is for hashes only.
func (s *sets) create(name string, k kind, capacity uint32, timed bool) error {
	data := nl.NewRtAttr(nl.IPSET_ATTR_DATA|unix.NLA_F_NESTED, nil)
	if timed {
		data.AddChild(number(nl.IPSET_ATTR_TIMEOUT, 0)) // none, if an element has none of its own
	}
	switch {
	case k.name == "bitmap:port":
		data.AddChild(port(nl.IPSET_ATTR_PORT_FROM, 0))
		data.AddChild(port(nl.IPSET_ATTR_PORT_TO, 65535))
	case capacity > 0:
		data.AddChild(number(attrMaxElem, capacity))
	}
	_, err := s.command(nl.IPSET_CMD_CREATE, unix.NLM_F_ACK|unix.NLM_F_CREATE, name,
		nl.NewRtAttr(nl.IPSET_ATTR_TYPENAME, nl.ZeroTerminated(k.name)),
		nl.NewRtAttr(nl.IPSET_ATTR_REVISION, []byte{k.revision}),
		nl.NewRtAttr(nl.IPSET_ATTR_FAMILY, []byte{k.family}), data)
	return err
}

// destroy is no error for a set that is not there.
func (s *sets) destroy(name string) error {
	_, err := s.command(nl.IPSET_CMD_DESTROY, unix.NLM_F_ACK, name)
	if errors.Is(err, errMissing) {
		return nil
	}
	return err
}

func (s *sets) flush(name string) error {
	_, err := s.command(nl.IPSET_CMD_FLUSH, unix.NLM_F_ACK, name)
	return err
}

// element is a member of a set; which fields count depends on the set's kind.
type element struct {
	address  netip.Addr
	bits     int // of a network's prefix
	protocol firewall.Protocol
	port     uint16
	set      string
	timeout  time.Duration // whole seconds; 0 for none
}

func (e element) attribute() *nl.RtAttr {
	data := nl.NewRtAttr(nl.IPSET_ATTR_DATA|unix.NLA_F_NESTED, nil)
	if e.address.IsValid() {
		kind := nl.IPSET_ATTR_IPADDR_IPV4
		if e.address.Is6() {
			kind = nl.IPSET_ATTR_IPADDR_IPV6
		}
		ip := nl.NewRtAttr(nl.IPSET_ATTR_IP|unix.NLA_F_NESTED, nil)
		ip.AddRtAttr(kind|unix.NLA_F_NET_BYTEORDER, e.address.AsSlice())
		data.AddChild(ip)
	}
	if e.bits > 0 {
		data.AddRtAttr(nl.IPSET_ATTR_CIDR, []byte{byte(e.bits)})
	}
	if e.protocol != 0 {
		data.AddRtAttr(nl.IPSET_ATTR_PROTO, []byte{byte(e.protocol)})
	}
	if e.port != 0 {
		data.AddChild(port(nl.IPSET_ATTR_PORT, e.port))
	}
	if e.set != "" {
		data.AddRtAttr(attrName, nl.ZeroTerminated(e.set))
	}
	if e.timeout > 0 {
		data.AddChild(number(nl.IPSET_ATTR_TIMEOUT, uint32(e.timeout/time.Second)))
	}
	return data
}

func number(kind int, value uint32) *nl.RtAttr {
	return nl.NewRtAttr(kind|unix.NLA_F_NET_BYTEORDER, binary.BigEndian.AppendUint32(nil, value))
}

func port(kind int, value uint16) *nl.RtAttr {
	return nl.NewRtAttr(kind|unix.NLA_F_NET_BYTEORDER, binary.BigEndian.AppendUint16(nil, value))
}

// add puts elements in; the timeout of one that is there is set anew.
func (s *sets) add(set string, elements ...element) error {
	return s.change(nl.IPSET_CMD_ADD, 0, set, elements)
}

// addNew puts one element in, or returns errThere.
func (s *sets) addNew(set string, e element) error {
	return s.change(nl.IPSET_CMD_ADD, unix.NLM_F_EXCL, set, []element{e})
}

// remove takes elements out; those that are not there are no error.
func (s *sets) remove(set string, elements ...element) error {
	return s.change(nl.IPSET_CMD_DEL, 0, set, elements)
}

func (s *sets) change(command, flags int, set string, elements []element) error {
	for len(elements) > 0 {
		n := min(len(elements), perMessage)
		list := nl.NewRtAttr(nl.IPSET_ATTR_ADT|unix.NLA_F_NESTED, nil)
		for _, e := range elements[:n] {
			list.AddChild(e.attribute())
		}
		line := nl.NewRtAttr(nl.IPSET_ATTR_LINENO, make([]byte, 4)) // wanted beside a list
		if _, err := s.command(command, flags|unix.NLM_F_ACK, set, line, list); err != nil {
			return err
		}
		elements = elements[n:]
	}
	return nil
}

// names lists the suffixes of all sets of an instance.
func (s *sets) names(of name) ([]string, error) {
	answers, err := s.command(nl.IPSET_CMD_LIST, unix.NLM_F_DUMP|unix.NLM_F_ACK, "",
		number(nl.IPSET_ATTR_FLAGS, listNamesOnly))
	if err != nil {
		return nil, fmt.Errorf("list sets: %w", err)
	}
	var suffixes []string
	for _, answer := range answers {
		attributes, err := nl.ParseRouteAttr(answer)
		if err != nil {
			return nil, fmt.Errorf("list sets: %w", err)
		}
		for _, a := range attributes {
			if a.Attr.Type&nlaTypeMask != nl.IPSET_ATTR_SETNAME {
				continue
			}
			suffix, ok := strings.CutPrefix(unix.ByteSliceToString(a.Value), of.set(""))
			if ok {
				suffixes = append(suffixes, suffix)
			}
		}
	}
	return suffixes, nil
}

const nlaTypeMask = ^uint16(unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER)

// header is what a set tells about itself.
type header struct {
	elements, references, capacity uint32
}

func (s *sets) header(set string) (header, error) {
	var h header
	answers, err := s.command(nl.IPSET_CMD_LIST, unix.NLM_F_DUMP|unix.NLM_F_ACK, set,
		number(nl.IPSET_ATTR_FLAGS, listHeadersOnly))
	if err != nil {
		return h, err
	}
	err = eachAttribute(answers, func(kind uint16, value []byte) error {
		if kind != nl.IPSET_ATTR_DATA {
			return nil
		}
		return eachAttribute([][]byte{value}, func(kind uint16, value []byte) error {
			if len(value) != 4 {
				return nil
			}
			switch n := binary.BigEndian.Uint32(value); kind {
			case attrElements:
				h.elements = n
			case attrReferences:
				h.references = n
			case attrMaxElem:
				h.capacity = n
			}
			return nil
		})
	})
	return h, err
}

// elements lists what is in a set, with the timeouts that are left.
func (s *sets) elements(set string) ([]element, error) {
	answers, err := s.command(nl.IPSET_CMD_LIST, unix.NLM_F_DUMP|unix.NLM_F_ACK, set)
	if err != nil {
		return nil, err
	}
	var list []element
	err = eachAttribute(answers, func(kind uint16, value []byte) error {
		if kind != nl.IPSET_ATTR_ADT {
			return nil
		}
		return eachAttribute([][]byte{value}, func(_ uint16, value []byte) error {
			e, err := parseElement(value)
			list = append(list, e)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("set %s: %w", set, err)
	}
	return list, nil
}

func parseElement(data []byte) (element, error) {
	var e element
	err := eachAttribute([][]byte{data}, func(kind uint16, value []byte) error {
		switch {
		case kind == nl.IPSET_ATTR_IP:
			return eachAttribute([][]byte{value}, func(_ uint16, value []byte) error {
				e.address, _ = netip.AddrFromSlice(value)
				return nil
			})
		case kind == nl.IPSET_ATTR_PROTO && len(value) == 1:
			e.protocol = firewall.Protocol(value[0])
		case kind == nl.IPSET_ATTR_PORT && len(value) == 2:
			e.port = binary.BigEndian.Uint16(value)
		case kind == nl.IPSET_ATTR_TIMEOUT && len(value) == 4:
			e.timeout = time.Duration(binary.BigEndian.Uint32(value)) * time.Second
		}
		return nil
	})
	return e, err
}

func eachAttribute(messages [][]byte, do func(kind uint16, value []byte) error) error {
	for _, m := range messages {
		attributes, err := nl.ParseRouteAttr(m)
		if err != nil {
			return err
		}
		for _, a := range attributes {
			if err := do(a.Attr.Type&nlaTypeMask, a.Value); err != nil {
				return err
			}
		}
	}
	return nil
}
