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
	id := key.NewID()
	b := appendHeader([]byte("foo"), headerStream, id)
	if !bytes.HasPrefix(b, []byte("foo\x01")) || len(b) != 3+headerSize {
		t.Fatalf("got %x", b)
	}
	r := bytes.NewReader(append(b[3:], "rest"...))
	if kind, got, err := readHeader(r); kind != headerStream || got != id || err != nil || r.Len() != 4 {
		t.Errorf("got %v, %v, %d bytes left", got, err, r.Len())
	}
}

func TestHeadersThatAreNoneAreRefused(t *testing.T) {
	good := appendHeader(nil, headerStream, key.NewID())
	for n := range good {
		if _, id, err := readHeader(bytes.NewReader(good[:n])); err == nil || !id.IsZero() {
			t.Errorf("first %d bytes: got %v, %v", n, id, err)
		}
		if _, id, err := parseHeader(good[:n]); err == nil || !id.IsZero() {
			t.Errorf("first %d bytes: got %v, %v", n, id, err)
		}
	}
	for version := range 256 {
		bad := append([]byte{byte(version)}, good[1:]...)
		if _, _, err := parseHeader(bad); (err == nil) != (version == headerStream || version == headerFlow) {
			t.Errorf("version %d: got %v", version, err)
		}
	}
	if _, _, err := parseHeader(appendHeader(nil, headerFlow, key.ID{})); !errors.Is(err, ErrProtocol) {
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
	f.Add(appendHeader(nil, headerStream, key.ID{1}))
	f.Add(appendHeader(nil, headerFlow, key.ID{1}))
	f.Add([]byte{headerStream})
	f.Fuzz(func(t *testing.T, b []byte) {
		kind, id, err := parseHeader(b)
		if err != nil {
			if !id.IsZero() {
				t.Error("an id beside an error")
			}
			return
		}
		if got := appendHeader(nil, kind, id); !bytes.Equal(got, b) {
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
