package survey

import (
	"bytes"

	"github.com/google/nftables/expr"
)

// cell is one byte of which the survey knows the value, or how much depends on it.
type cell struct {
	value   byte
	known   bool
	depends Level // Rarely or Maybe, when not known
}

// registers are nftables' 16 registers of 4 bytes (NFT_REG32_00 and on), which are
// also 4 of 16 bytes (NFT_REG_1 and on).
type registers [64]cell

// Numbers of registers in linux/netfilter/nf_tables.h.
const (
	firstWide, lastWide = 1, 4
	firstNarrow         = 8
)

// at returns the cells of a register, size bytes of them, or nil for what there is not.
func (r *registers) at(register uint32, size int) []cell {
	start := 0
	switch {
	case register >= firstWide && register <= lastWide:
		start = int(register-firstWide) * 16
	case register >= firstNarrow && register < firstNarrow+16:
		start = int(register-firstNarrow) * 4
	default:
		return nil
	}
	if size < 0 || start+size > len(r) {
		return nil
	}
	return r[start : start+size]
}

// put writes cells, and forgets what the rest of the last 4 bytes held.
func (r *registers) put(register uint32, cells []cell) {
	copy(r.at(register, (len(cells)+3)/4*4), append(cells, known(0, 0, 0)[:(4-len(cells)%4)%4]...))
}

// forget makes a register unknown: what a comparison has used is loaded anew by the
// next one, and an expression that the library does not know may have done that.
func (r *registers) forget(register uint32, size int) {
	for i := range r.at(register, size) {
		r.at(register, size)[i] = cell{depends: Maybe}
	}
}

func known(values ...byte) []cell {
	cells := make([]cell, len(values))
	for i, v := range values {
		cells[i] = cell{value: v, known: true}
	}
	return cells
}

func unknown(depends Level, size int) []cell {
	cells := make([]cell, size)
	for i := range cells {
		cells[i] = cell{depends: depends}
	}
	return cells
}

// not turns a level around. What differs for few packets only is otherwise so.
func not(l Level) Level {
	switch l {
	case Always:
		return Never
	case Maybe:
		return Maybe
	}
	return Always
}

// equal compares cells with data.
func equal(cells []cell, data []byte) Level {
	if len(cells) < len(data) {
		return Maybe
	}
	level := Always
	for i, b := range data {
		switch c := cells[i]; {
		case !c.known:
			level = min(level, c.depends)
		case c.value != b:
			return Never
		}
	}
	return level
}

// within compares cells with a range, both ends included.
func within(cells []cell, from, to []byte) Level {
	value, level := plain(cells)
	switch {
	case len(from) != len(cells) || len(to) != len(cells):
		return Maybe
	case level < Always:
		return level
	case bytes.Compare(value, from) >= 0 && bytes.Compare(value, to) <= 0:
		return Always
	}
	return Never
}

// plain returns the bytes of known cells, and Always; or on what else it depends.
func plain(cells []cell) ([]byte, Level) {
	value, level := make([]byte, len(cells)), Always
	for i, c := range cells {
		if !c.known {
			level = min(level, c.depends)
		}
		value[i] = c.value
	}
	return value, level
}

func compare(op expr.CmpOp, cells []cell, data []byte) Level {
	switch op {
	case expr.CmpOpEq:
		return equal(cells, data)
	case expr.CmpOpNeq:
		return not(equal(cells, data))
	}
	value, level := plain(cells)
	if len(value) < len(data) {
		return Maybe
	}
	if level < Always {
		return level
	}
	order := bytes.Compare(value[:len(data)], data)
	if op == expr.CmpOpLt && order < 0 || op == expr.CmpOpLte && order <= 0 ||
		op == expr.CmpOpGt && order > 0 || op == expr.CmpOpGte && order >= 0 {
		return Always
	}
	return Never
}

// bitwise is (cells & mask) ^ xor; a byte that the mask hides is known.
func bitwise(cells []cell, mask, xor []byte) []cell {
	out := unknown(Maybe, len(cells))
	if len(mask) != len(cells) || len(xor) != len(cells) {
		return out
	}
	for i, c := range cells {
		out[i] = c
		if c.known || mask[i] == 0 {
			out[i] = cell{value: c.value&mask[i] ^ xor[i], known: true}
		}
	}
	return out
}
