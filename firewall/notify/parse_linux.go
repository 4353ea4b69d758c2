package notify

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Sizes in a message of netfilter's (linux/netlink.h, linux/netfilter/nfnetlink.h).
const (
	messageHeader   = 16 // length 4 | type 2 | flags 2 | sequence 4 | port 4
	netfilterHeader = 4  // family 1 | version 1 | resource 2
	attributeHeader = 4  // length 2 | type 2
	alignment       = 4
)

// concerning reports whether a datagram has a message that concerns somebody.
func concerning(datagram []byte, concerns func(Change) bool) bool {
	for len(datagram) >= messageHeader {
		size := int(binary.NativeEndian.Uint32(datagram))
		if size < messageHeader || size > len(datagram) {
			return false
		}
		if c, ok := parse(datagram[:size]); ok && concerns(c) {
			return true
		}
		datagram = datagram[min(aligned(size), len(datagram)):]
	}
	return false
}

// parse reads one message; ok is false for one that is none of a Change.
func parse(message []byte) (c Change, ok bool) {
	kind := binary.NativeEndian.Uint16(message[4:])
	if kind>>8 != unix.NFNL_SUBSYS_NFTABLES || len(message) < messageHeader+netfilterHeader {
		return Change{}, false
	}
	chain := 0 // the attribute with its name
	switch kind & 0xff {
	case unix.NFT_MSG_NEWTABLE, unix.NFT_MSG_DELTABLE:
	case unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN:
		chain = unix.NFTA_CHAIN_NAME
	case unix.NFT_MSG_DELRULE:
		chain = unix.NFTA_RULE_CHAIN
	default:
		return Change{}, false
	}
	c.Deleted = kind&0xff != unix.NFT_MSG_NEWTABLE && kind&0xff != unix.NFT_MSG_NEWCHAIN
	c.By = binary.NativeEndian.Uint32(message[12:])
	c.Family = message[messageHeader]
	eachAttribute(message[messageHeader+netfilterHeader:], func(kind int, value []byte) {
		switch kind {
		case unix.NFTA_TABLE_NAME: // of a chain's and a rule's messages as well
			c.Table = unix.ByteSliceToString(value)
		case chain:
			c.Chain = unix.ByteSliceToString(value)
		}
	})
	return c, true
}

func eachAttribute(b []byte, do func(kind int, value []byte)) {
	for len(b) >= attributeHeader {
		size := int(binary.NativeEndian.Uint16(b))
		if size < attributeHeader || size > len(b) {
			return
		}
		do(int(binary.NativeEndian.Uint16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER)),
			b[attributeHeader:size])
		b = b[min(aligned(size), len(b)):]
	}
}

func aligned(size int) int { return (size + alignment - 1) &^ (alignment - 1) }
