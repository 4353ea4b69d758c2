package bolt

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"runtime/debug"

	"go.etcd.io/bbolt"

	"github.com/postern-sdp/postern/controller/store"
)

// sumSize is the length of the checksum before each value, in bytes.
const sumSize = 4

// transaction is one bbolt transaction. bbolt panics where it meets damage, and a
// page that the disk cannot deliver is a fault; both become errors here, at each
// call into bbolt and nowhere else: a panic of the caller's stays one.
type transaction struct {
	bolt   *bbolt.Tx
	broken error // bbolt panicked: this must not be committed
}

// guard runs f and returns its panic, if any, as [store.ErrCorrupt].
func guard(f func()) (damage error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			damage = fmt.Errorf("%w (%v)", store.ErrCorrupt, r)
		}
	}()
	f()
	return nil
}

// guarded runs f, which must do nothing but call into bbolt.
func (t *transaction) guarded(f func() error) (err error) {
	if damage := guard(func() { err = f() }); damage != nil {
		t.broken = damage
		return damage
	}
	return err
}

func (t *transaction) rollback() {
	_ = t.guarded(t.bolt.Rollback) // after a commit it says so, and does nothing
}

// Get implements [store.Tx].
func (t *transaction) Get(bucket, key string) (value []byte, err error) {
	err = t.guarded(func() error {
		b := t.bolt.Bucket([]byte(bucket))
		if b == nil {
			return store.ErrNotFound
		}
		stored := b.Get([]byte(key))
		if stored == nil {
			return store.ErrNotFound
		}
		value, err = unsum(bucket, []byte(key), stored)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", bucket, key, err)
	}
	return value, nil
}

// Put implements [store.Tx].
func (t *transaction) Put(bucket, key string, value []byte) error {
	err := t.guarded(func() error {
		b, err := t.bolt.CreateBucketIfNotExists([]byte(bucket))
		if err != nil {
			return err
		}
		return b.Put([]byte(key), append(sum(bucket, []byte(key), value), value...))
	})
	if err != nil {
		return fmt.Errorf("write %s %s: %w", bucket, key, err)
	}
	return nil
}

// Delete implements [store.Tx].
func (t *transaction) Delete(bucket, key string) error {
	err := t.guarded(func() error {
		b := t.bolt.Bucket([]byte(bucket))
		if b == nil {
			return nil
		}
		return b.Delete([]byte(key))
	})
	if err != nil {
		return fmt.Errorf("delete %s %s: %w", bucket, key, err)
	}
	return nil
}

// Each implements [store.Tx].
func (t *transaction) Each(bucket string, f func(key string, value []byte) error) error {
	var cursor *bbolt.Cursor
	err := t.guarded(func() error {
		if b := t.bolt.Bucket([]byte(bucket)); b != nil {
			cursor = b.Cursor()
		}
		return nil
	})
	if err != nil || cursor == nil {
		return err
	}
	for step := cursor.First; ; step = cursor.Next {
		key, value, more, err := t.step(bucket, step)
		if err != nil {
			return fmt.Errorf("read %s: %w", bucket, err)
		}
		if !more {
			return nil
		}
		if err := f(key, value); err != nil {
			return err
		}
	}
}

func (t *transaction) step(bucket string, move func() (k, v []byte)) (
	key string, value []byte, more bool, err error) {
	err = t.guarded(func() error {
		k, v := move()
		if k == nil {
			return nil
		}
		more, key = true, string(k)
		value, err = unsum(bucket, k, v)
		return err
	})
	return key, value, more, err
}

func sum(bucket string, key, value []byte) []byte {
	table := crc32.MakeTable(crc32.Castagnoli) // the standard library's own, made once
	var length [8]byte
	binary.BigEndian.PutUint32(length[:4], uint32(len(bucket)))
	binary.BigEndian.PutUint32(length[4:], uint32(len(key)))
	s := crc32.Checksum(length[:], table)
	s = crc32.Update(s, table, []byte(bucket))
	s = crc32.Update(s, table, key)
	s = crc32.Update(s, table, value)
	return binary.BigEndian.AppendUint32(make([]byte, 0, sumSize+len(value)), s)
}

// unsum returns a copy of the value that was stored. A nested bucket, which is no
// record of ours, has none.
func unsum(bucket string, key, stored []byte) ([]byte, error) {
	if len(key) == 0 || len(stored) < sumSize {
		return nil, corrupt("a record of %s has no checksum", bucket)
	}
	value := bytes.Clone(stored[sumSize:])
	if !bytes.Equal(sum(bucket, key, value), stored[:sumSize]) {
		return nil, corrupt("the checksum of a record of %s does not match", bucket)
	}
	if value == nil {
		value = []byte{}
	}
	return value, nil
}
