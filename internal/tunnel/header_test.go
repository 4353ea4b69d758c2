package tunnel

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/postern-sdp/postern/spa/key"
)

func TestHeaderAppendsAndReadsBack(t *testing.T) {
	for _, want := range []kind{kindTCP, kindUDP} {
		id := key.NewID()
		b := appendHeader([]byte("foo"), want, id)
		if !bytes.HasPrefix(b, []byte{'f', 'o', 'o', byte(want)}) || len(b) != 3+headerSize {
			t.Fatalf("got %x", b)
		}
		r := bytes.NewReader(append(b[3:], "rest"...))
		if k, got, err := readHeader(r); k != want || got != id || err != nil || r.Len() != 4 {
			t.Errorf("got %v, %v, %v, %d bytes left", k, got, err, r.Len())
		}
	}
}

// TestAStreamOfTCPBeginsAsEver: clients and hosts of before UDP go on together.
func TestAStreamOfTCPBeginsAsEver(t *testing.T) {
	id := key.NewID()
	if got := appendHeader(nil, kindTCP, id); !bytes.Equal(got, append([]byte{1}, id[:]...)) {
		t.Errorf("got %x", got)
	}
}

func TestHeadersThatAreNoneAreRefused(t *testing.T) {
	good := appendHeader(nil, kindTCP, key.NewID())
	for n := range good {
		if _, id, err := readHeader(bytes.NewReader(good[:n])); err == nil || !id.IsZero() {
			t.Errorf("first %d bytes: got %v, %v", n, id, err)
		}
		if _, id, err := parseHeader(good[:n]); err == nil || !id.IsZero() {
			t.Errorf("first %d bytes: got %v, %v", n, id, err)
		}
	}
	for k := range 256 {
		bad := append([]byte{byte(k)}, good[1:]...)
		if _, _, err := parseHeader(bad); (err == nil) != (k == 1 || k == 2) {
			t.Errorf("kind %d: got %v", k, err)
		}
	}
	if _, _, err := parseHeader(appendHeader(nil, kindUDP, key.ID{})); !errors.Is(err, ErrProtocol) {
		t.Errorf("no session: got %v", err)
	}
	if _, _, err := parseHeader(append(good, 0)); !errors.Is(err, ErrProtocol) {
		t.Errorf("too long: got %v", err)
	}
}

func TestAnswersReadBack(t *testing.T) {
	if err := readAnswer(bytes.NewReader(appendAnswer(nil, nil))); err != nil {
		t.Errorf("yes: got %v", err)
	}
	for _, text := range []string{"", "no", strings.Repeat("ü", 200), "bad \xff byte"} {
		b := appendAnswer([]byte("foo"), &RefusedError{StatusDenied, text})[3:]
		err := readAnswer(bytes.NewReader(b))
		refused, ok := errors.AsType[*RefusedError](err)
		if !ok || refused.Status != StatusDenied || !utf8.ValidString(refused.Text) ||
			!strings.HasPrefix(strings.ToValidUTF8(text, "?"), refused.Text) {
			t.Errorf("%q: got %v", text, err)
		}
		for n := range b {
			err := readAnswer(bytes.NewReader(b[:n]))
			if _, ok := errors.AsType[*RefusedError](err); ok || err == nil {
				t.Errorf("first %d bytes of %q: got %v", n, text, err)
			}
		}
	}
}

func FuzzHeader(f *testing.F) {
	f.Add(appendHeader(nil, kindTCP, key.ID{1}))
	f.Add(appendHeader(nil, kindUDP, key.ID{1}))
	f.Add([]byte{byte(kindTCP)})
	f.Fuzz(func(t *testing.T, b []byte) {
		k, id, err := parseHeader(b)
		if err != nil {
			if !id.IsZero() || k != 0 {
				t.Error("a value beside an error")
			}
			return
		}
		if got := appendHeader(nil, k, id); !bytes.Equal(got, b) {
			t.Errorf("read %x, wrote %x", b, got)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	f.Add(appendAnswer(nil, nil))
	f.Add(appendAnswer(nil, &RefusedError{StatusBusy, "later"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		err := readAnswer(r)
		read := b[:len(b)-r.Len()]
		refused, ok := errors.AsType[*RefusedError](err)
		switch {
		case err == nil:
			if !bytes.Equal(read, appendAnswer(nil, nil)) {
				t.Errorf("%x reads as a yes", read)
			}
		case ok:
			if got := appendAnswer(nil, refused); !bytes.Equal(got, read) {
				t.Errorf("read %x, wrote %x", read, got)
			}
		}
	})
}
