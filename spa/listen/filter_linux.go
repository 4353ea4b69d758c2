package listen

import (
	"fmt"
	"math"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Verdicts of a socket filter: the number of bytes kept.
const (
	keepAll = math.MaxUint16
	dropAll = 0
)

// checks is a filter program made of instructions, each of which may leave it for
// "drop". The jump distances to the end are filled in by program.
type checks []bpf.Instruction

// want continues when A compares as told and drops the packet when not.
func (c *checks) want(condition bpf.JumpTest, value uint32) {
	*c = append(*c, bpf.JumpIf{Cond: condition, Val: value})
}

func (c *checks) do(instructions ...bpf.Instruction) { *c = append(*c, instructions...) }

// program ends the checks with "keep" and makes each of want's jumps go to the "drop" behind it.
func (c checks) program() ([]bpf.RawInstruction, error) {
	for i, instruction := range c {
		if jump, ok := instruction.(bpf.JumpIf); ok && jump.SkipTrue == 0 {
			jump.SkipFalse = uint8(len(c) - i)
			c[i] = jump
		}
	}
	raw, err := bpf.Assemble(append(c, bpf.RetConstant{Val: keepAll}, bpf.RetConstant{Val: dropAll}))
	if err != nil {
		return nil, fmt.Errorf("assemble filter: %w", err)
	}
	return raw, nil
}

// received keeps what the kernel took from a link for this host itself: not
// broadcast, multicast, other hosts' or outgoing packets. Those of a VLAN count as another
// host's, unless the VLAN has an interface here, and then they come from that one.
func (c *checks) received(ifindexes []int) {
	c.do(bpf.LoadExtension{Num: bpf.ExtType})
	c.want(bpf.JumpEqual, unix.PACKET_HOST)
	if len(ifindexes) == 0 {
		return
	}
	c.do(bpf.LoadExtension{Num: bpf.ExtInterfaceIndex})
	last := len(ifindexes) - 1
	for i, index := range ifindexes[:last] {
		c.do(bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(index), SkipTrue: uint8(last - i)})
	}
	c.want(bpf.JumpEqual, uint32(ifindexes[last]))
}

// filterIPv4 keeps whole IPv4 packets with one UDP datagram of length payload
// bytes to port. Offsets count from the IP header; X is that header's length.
func filterIPv4(port uint16, length int, ifindexes []int) ([]bpf.RawInstruction, error) {
	var c checks
	c.received(ifindexes)
	c.do(bpf.LoadAbsolute{Off: 9, Size: 1})
	c.want(bpf.JumpEqual, protocolUDP)
	c.do(bpf.LoadAbsolute{Off: 6, Size: 2}) // more fragments, fragment offset
	c.want(bpf.JumpBitsNotSet, 0x3fff)
	c.do(bpf.LoadMemShift{Off: 0})
	c.do(bpf.LoadAbsolute{Off: 2, Size: 2}, bpf.ALUOpX{Op: bpf.ALUOpSub})
	c.want(bpf.JumpEqual, uint32(udpHeaderSize+length))
	c.do(bpf.LoadIndirect{Off: 2, Size: 2})
	c.want(bpf.JumpEqual, uint32(port))
	c.do(bpf.LoadIndirect{Off: 4, Size: 2})
	c.want(bpf.JumpEqual, uint32(udpHeaderSize+length))
	return c.program()
}

// filterIPv6 keeps IPv6 packets without extension headers with one UDP datagram
// of length payload bytes to port.
func filterIPv6(port uint16, length int, ifindexes []int) ([]bpf.RawInstruction, error) {
	var c checks
	c.received(ifindexes)
	c.do(bpf.LoadAbsolute{Off: 4, Size: 2}) // payload length
	c.want(bpf.JumpEqual, uint32(udpHeaderSize+length))
	c.do(bpf.LoadAbsolute{Off: 6, Size: 1})
	c.want(bpf.JumpEqual, protocolUDP)
	c.do(bpf.LoadAbsolute{Off: 40 + 2, Size: 2})
	c.want(bpf.JumpEqual, uint32(port))
	c.do(bpf.LoadAbsolute{Off: 40 + 4, Size: 2})
	c.want(bpf.JumpEqual, uint32(udpHeaderSize+length))
	return c.program()
}

// filterNothing drops every packet.
func filterNothing() ([]bpf.RawInstruction, error) {
	return bpf.Assemble([]bpf.Instruction{bpf.RetConstant{Val: dropAll}})
}

// filterUnicast keeps what was sent to this host alone. A UDP socket also gets
// broadcasts, which cannot be answered from the address they were sent to.
func filterUnicast() ([]bpf.RawInstruction, error) {
	var c checks
	c.do(bpf.LoadExtension{Num: bpf.ExtType})
	c.want(bpf.JumpEqual, unix.PACKET_HOST)
	return c.program()
}

// attachFilter sets the socket's filter.
func attachFilter(fd int, program []bpf.RawInstruction) error {
	filter := make([]unix.SockFilter, len(program))
	for i, in := range program {
		filter[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	fprog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &fprog)
	if err != nil {
		return fmt.Errorf("attach filter: %w", err)
	}
	return nil
}
