package nft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"golang.org/x/sys/unix"

	"github.com/postern-sdp/postern/firewall"
)

// perMessage is how many elements fit in one netlink message, whose list of
// elements has a 16-bit length: 1,000 of 52 bytes.
const perMessage = 1000

// Each part of a set's key begins at a multiple of 4 bytes, a register:
//
//	exact4  source[4] source port[2] 0[2] protocol[1] 0[3] port[2] 0[2]
//	wide4   source[4] protocol[1] 0[3] port[2] 0[2]
//	doors   protocol[1] 0[3] port[2] 0[2]
//
// and exact6 and wide6 with source[16]. Ports are big endian.
const register = 4

// layout is one set's place in the table.
type layout struct {
	name  string
	id    uint32 // within a transaction
	v6    bool
	exact bool // the key has the source port
	door  bool // the key has no source, and no timeout
}

// layouts lists the sets: those of pinholes first.
func layouts() []layout {
	return []layout{
		{name: "exact4", id: 1, exact: true},
		{name: "wide4", id: 2},
		{name: "exact6", id: 3, v6: true, exact: true},
		{name: "wide6", id: 4, v6: true},
		{name: "doors", id: 5, door: true},
	}
}

// Indexes in layouts.
const (
	exact4, wide4, exact6, wide6 = 0, 1, 2, 3

	doors = 4
)

// layoutOf is the index in layouts of the set that p belongs in.
func layoutOf(p firewall.Pinhole) int {
	switch v6, wide := p.Source.Is6(), p.SourcePort == 0; {
	case v6 && wide:
		return wide6
	case v6:
		return exact6
	case wide:
		return wide4
	}
	return exact4
}

func (l layout) set(table *nftables.Table) (*nftables.Set, error) {
	var parts []nftables.SetDatatype
	switch {
	case l.door:
	case l.v6:
		parts = append(parts, nftables.TypeIP6Addr)
	default:
		parts = append(parts, nftables.TypeIPAddr)
	}
	if l.exact {
		parts = append(parts, nftables.TypeInetService)
	}
	parts = append(parts, nftables.TypeInetProto, nftables.TypeInetService)
	key, err := nftables.ConcatSetType(parts...)
	if err != nil {
		return nil, fmt.Errorf("set %s: %w", l.name, err)
	}
	return &nftables.Set{
		Table: table, Name: l.name, ID: l.id, KeyType: key, Concatenation: true,
		KeyByteOrder: binaryutil.BigEndian, HasTimeout: !l.door,
	}, nil
}

func (l layout) encode(p firewall.Pinhole) []byte {
	key := make([]byte, 0, 16+3*register)
	if !l.door {
		key = append(key, p.Source.AsSlice()...)
	}
	if l.exact {
		key = append(binary.BigEndian.AppendUint16(key, p.SourcePort), 0, 0)
	}
	key = append(key, byte(p.Protocol), 0, 0, 0)
	return append(binary.BigEndian.AppendUint16(key, p.Port), 0, 0)
}

func (l layout) decode(key []byte) (firewall.Pinhole, error) {
	size := 4
	if l.v6 {
		size = 16
	}
	want := size + 2*register
	if l.exact {
		want += register
	}
	if len(key) != want {
		return firewall.Pinhole{}, fmt.Errorf("set %s: key of %d bytes, want %d", l.name, len(key), want)
	}
	var p firewall.Pinhole
	p.Source, _ = netip.AddrFromSlice(key[:size])
	key = key[size:]
	if l.exact {
		p.SourcePort = binary.BigEndian.Uint16(key)
		key = key[register:]
	}
	p.Protocol = firewall.Protocol(key[0])
	p.Port = binary.BigEndian.Uint16(key[register:])
	return p, nil
}

// element is what is put into a set, or taken out.
type element struct {
	key     []byte
	timeout time.Duration // 0 for none
}

// batch is what one Apply does to each set.
type batch struct {
	touched [doors + 1][]element // to be deleted, whether there or not
	opened  [doors + 1][]element
}

func makeBatch(change firewall.Change) batch {
	ttl := make(map[firewall.Pinhole]time.Duration, len(change.Revoke)+len(change.Open))
	for _, p := range change.Revoke {
		ttl[p.Opening()] = 0
	}
	for _, p := range change.Open {
		ttl[p.Opening()] = p.TTL
	}
	var b batch
	all := layouts()
	seen := make(map[firewall.Port]bool)
	for p, left := range ttl {
		i := layoutOf(p)
		key := all[i].encode(p)
		b.touched[i] = append(b.touched[i], element{key, time.Hour})
		if left <= 0 {
			continue
		}
		// To the kernel a timeout of 0 ms means for ever.
		b.opened[i] = append(b.opened[i], element{key, max(left, time.Millisecond)})
		if door := (firewall.Port{Protocol: p.Protocol, Number: p.Port}); !seen[door] {
			seen[door] = true
			b.opened[doors] = append(b.opened[doors], element{key: all[doors].encode(p)})
		}
	}
	return b
}

// write adds, deletes and adds again. The first addition makes the deletion succeed
// for elements that are not there, or not any more: one missing element would fail
// the whole transaction. The second one gives the new timeout on every kernel; older
// ones do not refresh an element that is there.
func (b batch) write(w *wire, table string) {
	*w = wire{data: w.data[:0]}
	w.frame(unix.NFNL_MSG_BATCH_BEGIN)
	for i, l := range layouts() {
		w.elements(unix.NFT_MSG_NEWSETELEM, table, l, b.touched[i])
		w.elements(unix.NFT_MSG_DELSETELEM, table, l, b.touched[i])
		w.elements(unix.NFT_MSG_NEWSETELEM, table, l, b.opened[i])
	}
	w.ask()
	w.frame(unix.NFNL_MSG_BATCH_END)
}

// The kernel hands a set out in pieces and counts where it was. When it moves
// the elements to a larger table in between, some come twice and as many never:
// then the listing is begun again, after a pause.
const (
	listAttempts = 100
	listPause    = 3 * time.Millisecond
)

func (f *Firewall) list(ctx context.Context) ([]firewall.Pinhole, error) {
	for range listAttempts {
		pinholes, err := f.listOnce(ctx)
		if !errors.Is(err, ErrMoving) {
			return pinholes, err
		}
		select {
		case <-ctx.Done():
		case <-time.After(listPause):
		}
	}
	return nil, ErrMoving
}

func (f *Firewall) listOnce(ctx context.Context) ([]firewall.Pinhole, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.usableLocked(ctx); err != nil {
		return nil, err
	}
	if err := f.installedLocked(); err != nil {
		return nil, err
	}
	var pinholes []firewall.Pinhole
	for _, l := range layouts()[:doors] {
		elements, err := f.elementsLocked(l)
		if err != nil {
			return nil, err
		}
		pinholes, err = l.appendPinholes(pinholes, elements)
		if err != nil {
			return nil, err
		}
	}
	return pinholes, nil
}

// elementsLocked returns the elements of a set, or ErrMoving.
func (f *Firewall) elementsLocked(l layout) ([]nftables.SetElement, error) {
	set, err := l.set(f.table)
	if err != nil {
		return nil, err
	}
	if err := f.socket.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	elements, err := f.conn.GetSetElements(set)
	if err != nil {
		return nil, fmt.Errorf("set %s: %w", l.name, errors.Join(err, f.drainLocked()))
	}
	seen := make(map[string]bool, len(elements))
	for _, e := range elements {
		if seen[string(e.Key)] {
			return nil, ErrMoving
		}
		seen[string(e.Key)] = true
	}
	return elements, nil
}

func (l layout) appendPinholes(to []firewall.Pinhole, elements []nftables.SetElement) (
	[]firewall.Pinhole, error) {
	for _, e := range elements {
		p, err := l.decode(e.Key)
		if err != nil {
			return nil, err
		}
		switch {
		case e.Timeout == 0:
			p.TTL = firewall.Forever
		case e.Expires <= 0:
			continue // over, and not yet swept
		default:
			p.TTL = e.Expires
		}
		to = append(to, p)
	}
	return to, nil
}
