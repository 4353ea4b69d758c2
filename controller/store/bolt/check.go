package bolt

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"strconv"

	"github.com/postern-sdp/postern/controller/store"
)

// bbolt's file format, version 2, in the byte order of the machine. Numbers are
// offsets and sizes in bytes.
//
//	page    id 8 | flags 2 | count 2 | overflow 4 | elements
//	meta    page header | magic 4 | version 4 | page size 4 | flags 4 | root 16 |
//	        freelist 8 | high-water mark 8 | transaction 8 | FNV-1a of these 8
//	leaf    elements: flags 4 | position 4 | key size 4 | value size 4; then keys and values
//	branch  elements: position 4 | key size 4 | page 8; then keys
//	bucket  root page 8 (0: the page follows) | sequence 8
const (
	headerSize    = 16
	elementSize   = 16
	bucketSize    = 16
	metaSize      = 64 // with its checksum, without the page header
	boltMagic     = 0xED0CDAED
	boltVersion   = 2
	branchFlag    = 0x01
	leafFlag      = 0x02
	freelistFlag  = 0x10
	bucketEntry   = 0x01
	manyFree      = 0xffff // as a count: the number is the first element
	minPage       = 1 << 10
	maxPage       = 16 << 20
	firstDataPage = 2
)

var order = binary.NativeEndian

// checker reads a state file page by page, without mapping it, and trusts nothing
// in it: bbolt itself panics on a damaged file, faults on a truncated one, and
// goes round for ever in one whose pages point at each other.
type checker struct {
	file     io.ReaderAt
	pageSize uint64
	high     uint64 // pages from here on are not in use
	freelist uint64
	used     []bool // by page; each has one use
	version  []byte // of the format, as found
}

// check returns nil, [store.ErrCorrupt] or [store.ErrNewer]. A good file is whole
// in every page and every record.
func check(file *os.File) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	c := &checker{file: file}
	root, err := c.readMeta(uint64(info.Size()))
	if err != nil {
		return err
	}
	if err := c.tree(root, "", bounds{}); err != nil {
		return err
	}
	if err := c.checkVersion(); err != nil {
		return err
	}
	return c.checkFree()
}

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w (%s)", store.ErrCorrupt, fmt.Sprintf(format, args...))
}

// readMeta reads the newest of the two meta pages that is whole, as bbolt does,
// and returns the root page.
func (c *checker) readMeta(size uint64) (root uint64, err error) {
	var newest []byte
	second := uint64(os.Getpagesize()) // unless the first page says otherwise
	for _, first := range []bool{true, false} {
		m := make([]byte, metaSize)
		at := uint64(0)
		if !first {
			at = second
		}
		if _, err := c.file.ReadAt(m, int64(at)+headerSize); err != nil {
			continue // too short: the other one decides
		}
		h := fnv.New64a()
		h.Write(m[:metaSize-8])
		pageSize := order.Uint32(m[8:])
		if order.Uint32(m) != boltMagic || order.Uint32(m[4:]) != boltVersion ||
			order.Uint64(m[metaSize-8:]) != h.Sum64() || pageSize < minPage || pageSize > maxPage {
			continue
		}
		if first {
			second = uint64(pageSize)
		}
		if newest == nil || order.Uint64(m[48:]) > order.Uint64(newest[48:]) {
			newest = m
		}
	}
	if newest == nil {
		return 0, corrupt("it does not start like a state file")
	}
	c.pageSize = uint64(order.Uint32(newest[8:]))
	root, c.freelist = order.Uint64(newest[16:]), order.Uint64(newest[32:])
	c.high = order.Uint64(newest[40:])
	if c.high > size/c.pageSize {
		return 0, corrupt("it has %d bytes and should have %d pages of %d", size, c.high, c.pageSize)
	}
	c.used = make([]bool, c.high)
	return root, nil
}

// read returns page id with what overflows it, and marks them as used.
func (c *checker) read(id uint64) ([]byte, error) {
	if id < firstDataPage || id >= c.high {
		return nil, corrupt("page %d of %d", id, c.high)
	}
	header := make([]byte, headerSize)
	if _, err := c.file.ReadAt(header, int64(id*c.pageSize)); err != nil {
		return nil, fmt.Errorf("read page %d: %w", id, err)
	}
	pages := uint64(order.Uint32(header[12:])) + 1
	if order.Uint64(header) != id || pages > c.high-id {
		return nil, corrupt("the header of page %d", id)
	}
	for i := id; i < id+pages; i++ {
		if c.used[i] {
			return nil, corrupt("two uses of page %d", i)
		}
		c.used[i] = true
	}
	page := make([]byte, pages*c.pageSize)
	if _, err := c.file.ReadAt(page, int64(id*c.pageSize)); err != nil {
		return nil, fmt.Errorf("read page %d: %w", id, err)
	}
	return page, nil
}

// bounds are the keys that a page may hold: from low on, and below high if that
// is not nil.
type bounds struct{ low, high []byte }

// tree checks page id and all below it. The bucket is "" for the root, whose
// entries are the buckets.
func (c *checker) tree(id uint64, bucket string, b bounds) error {
	page, err := c.read(id)
	if err != nil {
		return err
	}
	switch order.Uint16(page[8:]) {
	case leafFlag:
		return c.leaf(page, bucket, b)
	case branchFlag:
		return c.branch(page, bucket, b)
	}
	return corrupt("the kind of page %d", id)
}

// entry is one element of a page.
type entry struct {
	key, value []byte
	flags      uint32 // of a leaf's element
	child      uint64 // of a branch's
}

// entries returns a page's elements. bbolt writes keys and values one after the
// other right behind the elements: any gap means that a number was changed.
func entries(page []byte, leaf bool, b bounds) ([]entry, error) {
	count := int(order.Uint16(page[10:]))
	next := uint64(headerSize + count*elementSize)
	if next > uint64(len(page)) {
		return nil, corrupt("a page of %d elements", count)
	}
	all := make([]entry, count)
	for i := range all {
		at := uint64(headerSize + i*elementSize)
		element := page[at : at+elementSize]
		var e entry
		var position, keySize, valueSize uint64
		if leaf {
			e.flags, position = order.Uint32(element), uint64(order.Uint32(element[4:]))
			keySize, valueSize = uint64(order.Uint32(element[8:])), uint64(order.Uint32(element[12:]))
		} else {
			position, keySize = uint64(order.Uint32(element)), uint64(order.Uint32(element[4:]))
			e.child = order.Uint64(element[8:])
		}
		if at+position != next || keySize == 0 || keySize+valueSize > uint64(len(page))-next {
			return nil, corrupt("element %d of a page", i)
		}
		e.key, e.value = page[next:next+keySize], page[next+keySize:next+keySize+valueSize]
		next += keySize + valueSize
		low := b.low
		if i > 0 {
			low = all[i-1].key
		}
		disorder := bytes.Compare(low, e.key) > 0 || i > 0 && bytes.Equal(low, e.key)
		if disorder || b.high != nil && bytes.Compare(e.key, b.high) >= 0 {
			return nil, corrupt("keys out of order")
		}
		all[i] = e
	}
	return all, nil
}

func (c *checker) branch(page []byte, bucket string, b bounds) error {
	children, err := entries(page, false, b)
	if err != nil {
		return err
	}
	if len(children) == 0 {
		return corrupt("an empty branch")
	}
	for i, e := range children {
		below := bounds{low: e.key, high: b.high}
		if i+1 < len(children) {
			below.high = children[i+1].key
		}
		if err := c.tree(e.child, bucket, below); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) leaf(page []byte, bucket string, b bounds) error {
	records, err := entries(page, true, b)
	if err != nil {
		return err
	}
	for _, e := range records {
		if bucket == "" {
			err = c.bucket(e)
		} else {
			err = c.record(bucket, e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// bucket checks what an entry of the root leads to.
func (c *checker) bucket(e entry) error {
	if e.flags != bucketEntry || len(e.value) < bucketSize {
		return corrupt("an entry of the root is no bucket")
	}
	if root := order.Uint64(e.value); root != 0 {
		return c.tree(root, string(e.key), bounds{})
	}
	inline := e.value[bucketSize:]
	if len(inline) < headerSize || order.Uint16(inline[8:]) != leafFlag {
		return corrupt("a small bucket")
	}
	return c.leaf(inline, string(e.key), bounds{})
}

func (c *checker) record(bucket string, e entry) error {
	if e.flags != 0 {
		return corrupt("a record of %s has flags", bucket)
	}
	value, err := unsum(bucket, e.key, e.value)
	if err != nil {
		return err
	}
	if bucket == metaBucket && string(e.key) == versionKey {
		c.version = value
	}
	return nil
}

func (c *checker) checkVersion() error {
	found, err := strconv.Atoi(string(c.version))
	switch {
	case err != nil || found < 1:
		return corrupt("its version is missing or unreadable")
	case found > version:
		return fmt.Errorf("%w (state version %d, this program knows %d)", store.ErrNewer, found, version)
	}
	return nil
}

// checkFree checks that each page is in use or free, and none is both: bbolt will
// write over what it takes for free.
func (c *checker) checkFree() error {
	page, err := c.read(c.freelist)
	if err != nil {
		return err
	}
	count, ids := uint64(order.Uint16(page[10:])), page[headerSize:]
	if count == manyFree {
		count, ids = order.Uint64(ids), ids[8:]
	}
	if order.Uint16(page[8:]) != freelistFlag || count > uint64(len(ids))/8 {
		return corrupt("the list of free pages")
	}
	for i := range count {
		id := order.Uint64(ids[8*i:])
		if id < firstDataPage || id >= c.high || c.used[id] {
			return corrupt("free page %d is none", id)
		}
		c.used[id] = true
	}
	for id := uint64(firstDataPage); id < c.high; id++ {
		if !c.used[id] {
			return corrupt("page %d has no use", id)
		}
	}
	return nil
}
