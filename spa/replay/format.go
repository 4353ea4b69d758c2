package replay

import (
	"encoding/binary"
	"hash/crc32"
)

// The journal's form: a header, then records of one size. The last may be torn off
// by the death of the process. Integers are big-endian; crc is CRC-32C over what
// stands before it in the header or the record.
//
//	header  magic 16 | boot id 36 | floor 8 | written 8 | crc 4
//	record  epoch 8 | mac 32 | crc 4
//	end     a record of epoch -1 and a mac of 0xff: closed in order
const (
	magic      = "postern-replay2\n"
	bootIDSize = 36
	crcSize    = 4
	headerSize = len(magic) + bootIDSize + 8 + 8 + crcSize
	recordSize = 8 + macSize + crcSize
	macSize    = 32
)

// header is the journal's first part.
type header struct {
	boot    string // the machine's boot that the file was written in
	floor   int64  // epochs below are closed
	written int64  // the epoch in which the file was begun
}

// record is one accepted datagram.
type record struct {
	epoch int64
	mac   [macSize]byte
}

// endRecord marks a journal that was closed in order.
func endRecord() record {
	r := record{epoch: -1}
	for i := range r.mac {
		r.mac[i] = 0xff
	}
	return r
}

func sum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

func appendHeader(dst []byte, h header) []byte {
	n := len(dst)
	dst = append(dst, magic...)
	dst = append(dst, h.boot...)
	dst = binary.BigEndian.AppendUint64(dst, uint64(h.floor))
	dst = binary.BigEndian.AppendUint64(dst, uint64(h.written))
	return binary.BigEndian.AppendUint32(dst, sum(dst[n:]))
}

func appendRecord(dst []byte, r record) []byte {
	n := len(dst)
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.epoch))
	dst = append(dst, r.mac[:]...)
	return binary.BigEndian.AppendUint32(dst, sum(dst[n:]))
}

// contents is what a journal holds.
type contents struct {
	header
	records  []record
	complete bool // closed in order
	damaged  bool // a whole record, and what follows it, does not read
}

// parseJournal reads a journal. A torn last record is left out; damage that no crash
// of a machine explains is [ErrCorrupt].
func parseJournal(b []byte) (contents, error) {
	h, rest, err := parseHeader(b)
	if err != nil {
		return contents{}, err
	}
	c := contents{header: h}
	for len(rest) >= recordSize {
		r, ok := parseRecord(rest[:recordSize])
		rest = rest[recordSize:]
		switch {
		case !ok && endsInOrder(rest), c.complete: // damaged after it was whole
			return contents{}, ErrCorrupt
		case !ok:
			c.damaged = true
			return c, nil
		case r == endRecord():
			c.complete = true
		default:
			c.records = append(c.records, r)
		}
	}
	if c.complete && len(rest) > 0 {
		return contents{}, ErrCorrupt
	}
	return c, nil
}

func parseHeader(b []byte) (h header, rest []byte, err error) {
	if len(b) < len(magic) || string(b[:len(magic)]) != magic {
		return header{}, nil, ErrVersion
	}
	if len(b) < headerSize { // it is never written in place
		return header{}, nil, ErrCorrupt
	}
	rest = b[len(magic):]
	h.boot, rest = string(rest[:bootIDSize]), rest[bootIDSize:]
	h.floor, rest = int64(binary.BigEndian.Uint64(rest)), rest[8:]
	h.written, rest = int64(binary.BigEndian.Uint64(rest)), rest[8:]
	if binary.BigEndian.Uint32(rest) != sum(b[:headerSize-crcSize]) {
		return header{}, nil, ErrCorrupt
	}
	return h, rest[crcSize:], nil
}

func parseRecord(b []byte) (r record, ok bool) {
	r.epoch = int64(binary.BigEndian.Uint64(b))
	copy(r.mac[:], b[8:])
	ok = binary.BigEndian.Uint32(b[8+macSize:]) == sum(b[:8+macSize])
	return r, ok
}

func endsInOrder(rest []byte) bool {
	if len(rest) < recordSize {
		return false
	}
	r, ok := parseRecord(rest[len(rest)-recordSize:])
	return ok && r == endRecord()
}
