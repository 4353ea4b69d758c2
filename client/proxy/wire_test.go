package proxy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
)

func TestEveryPrefixIsRefused(t *testing.T) {
	for _, whole := range []string{
		named(commandConnect, "echo", 7), "\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x07",
		"\x05\x01\x00\x04" + strings.Repeat("\x20", 16) + "\x00\x07",
	} {
		if _, to, err := readRequest(strings.NewReader(whole)); err != nil || to.port != 7 {
			t.Errorf("%q: %v, %v", whole, to, err)
		}
		for n := range whole {
			if _, to, err := readRequest(strings.NewReader(whole[:n])); err == nil || to != (address{}) {
				t.Errorf("%q: %v, %v", whole[:n], to, err)
			}
		}
	}
	whole := packet(0, "dns", 53, "")
	for n := range whole {
		if to, header, data, err := splitPacket([]byte(whole[:n])); err == nil || to != (address{}) || header != nil || data != nil {
			t.Errorf("%q: %v, %v", whole[:n], to, err)
		}
	}
}

func TestRepliesAreAsTheRFCHasThem(t *testing.T) {
	for bound, want := range map[netip.AddrPort]string{
		{}:                                       "\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00",
		netip.MustParseAddrPort("127.0.0.1:258"): "\x05\x00\x00\x01\x7f\x00\x00\x01\x01\x02",
		netip.MustParseAddrPort("[::ffff:127.0.0.1]:258"): "\x05\x00\x00\x01\x7f\x00\x00\x01\x01\x02",
		netip.MustParseAddrPort("[::1]:258"):              "\x05\x00\x00\x04" + strings.Repeat("\x00", 15) + "\x01\x01\x02",
	} {
		if got := appendReply([]byte("foo"), replyOK, bound); string(got) != "foo"+want {
			t.Errorf("%s: %q, want %q", bound, got, want)
		}
	}
}

// FuzzHello reads what a client may begin with, to the request.
func FuzzHello(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		if methods, err := readMethods(r); err != nil || len(methods) > 255 {
			if len(methods) != 0 {
				t.Errorf("%d methods with %v", len(methods), err)
			}
			return
		}
		_, _, _ = readPassword(bytes.NewReader(b[len(b)-r.Len():]))
		command, to, err := readRequest(r)
		if err != nil {
			if command != 0 && !errors.Is(err, errFamily) && to != (address{}) {
				t.Errorf("%v with %v", to, err)
			}
			return
		}
		if len(to.host) > 255 {
			t.Errorf("a name of %d bytes", len(to.host))
		}
	})
}

// FuzzPacket takes a datagram apart: what fits is a header and data, without loss.
func FuzzPacket(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		to, header, data, err := splitPacket(b)
		if err != nil {
			if to != (address{}) || header != nil || data != nil {
				t.Errorf("%v %q %q with %v", to, header, data, err)
			}
			return
		}
		if !bytes.Equal(append(bytes.Clone(header), data...), b) || len(header) > maxHeader || header[2] != 0 {
			t.Errorf("%q became %q and %q", b, header, data)
		}
		again, _, rest, err := splitPacket(header)
		if err != nil || again != to || len(rest) != 0 {
			t.Errorf("the header alone became %v, %q, %v", again, rest, err)
		}
	})
}

func TestPasswordsDoNotPrint(t *testing.T) {
	const marked = "tell-nobody-this"
	p, err := ParsePassword("ada:" + marked + "\n")
	if err != nil || !p.Is("ada", marked) {
		t.Fatal(err)
	}
	held := struct {
		P Password
		C Config
		p *Password
	}{p, Config{Password: p}, &p}
	var out strings.Builder
	for _, value := range []any{p, &p, held, &held, []Password{p}, map[string]Password{"p": p}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
			fmt.Fprintf(&out, verb, value)
		}
		slog.New(slog.NewTextHandler(&out, nil)).Info("x", "p", value)
		b, _ := json.Marshal(value)
		out.Write(b)
	}
	for _, form := range []string{marked, fmt.Sprintf("%x", marked), fmt.Sprintf("%X", marked)} {
		if strings.Contains(out.String(), form) {
			t.Errorf("%q is in the output", form)
		}
	}
	for _, bad := range []string{"", "ada", "ada:short", ":" + marked, "ada:" + strings.Repeat("x", 256), "ada:" + marked + "\nmore"} {
		if p, err := ParsePassword(bad); !errors.Is(err, ErrPassword) || !p.IsZero() || strings.Contains(err.Error(), "ada") {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if a, b := RandomPassword(), RandomPassword(); a.Reveal().String() == b.Reveal().String() || (Password{}).Is("", "") {
		t.Error("passwords can be guessed")
	}
}
