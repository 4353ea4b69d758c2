package iptables

import (
	"encoding/binary"
	"fmt"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// census asks how much our chains in nftables are used: how many rules each has, and how
// many lead to it. It is one message for each chain, sent together.
type census struct {
	request []byte
	chains  uint32
}

// firstQuestion numbers the messages of a census; those of other requests count from 1.
const firstQuestion = 1 << 31

func newCensus(n name) (c census) {
	for _, v6 := range families() {
		for _, table := range tables() {
			for _, chain := range (writer{name: n}).chains(table) {
				m := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|nftGetChain, 0)
				m.Seq = firstQuestion + c.chains
				m.AddRawData([]byte{family(v6), unix.NFNETLINK_V0, 0, 0})
				m.AddRawData(text(attrChainTable, table).Serialize())
				m.AddRawData(text(attrChainName, n.chain(chain.name)).Serialize())
				c.request = append(c.request, m.Serialize()...)
				c.chains++
			}
		}
	}
	return c
}

// uses returns the counts, or errMissing when a chain is not there. The kernel has all
// answers ready when it has taken the questions.
func (s *sets) uses(c census) (string, error) {
	s.socket.Socket.Lock()
	defer s.socket.Socket.Unlock()
	fd := s.socket.Socket.GetFd()
	to := &unix.SockaddrNetlink{Family: unix.AF_NETLINK}
	if err := unix.Sendto(fd, c.request, 0, to); err != nil {
		return "", fmt.Errorf("use of chains: %w", err)
	}
	counts := make([]byte, 4*c.chains)
	buffer := make([]byte, 8<<10) // a chain takes some hundred bytes
	var fault error
	for answered := uint32(0); answered < c.chains; {
		k, _, err := unix.Recvfrom(fd, buffer, unix.MSG_DONTWAIT)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("use of chains: %w", err)
		}
		messages, err := syscall.ParseNetlinkMessage(buffer[:k])
		if err != nil {
			return "", fmt.Errorf("use of chains: %w", err)
		}
		for _, m := range messages {
			if i := m.Header.Seq - firstQuestion; i < c.chains {
				answered++
				if err := countUse(m, counts[4*i:]); err != nil {
					fault = err
				}
			}
		}
	}
	return string(counts), fault
}

// countUse reads one answer.
func countUse(m syscall.NetlinkMessage, to []byte) error {
	if m.Header.Type == unix.NLMSG_ERROR {
		return explain(unix.Errno(-int32(binary.NativeEndian.Uint32(m.Data))))
	}
	return eachAttribute([][]byte{m.Data[min(nfgenSize, len(m.Data)):]}, func(kind uint16, value []byte) error {
		if kind == attrChainUse {
			copy(to[:4], value)
		}
		return nil
	})
}
