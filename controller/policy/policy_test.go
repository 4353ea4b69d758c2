package policy

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-sdp/postern/controller/identity"
	"github.com/postern-sdp/postern/controller/store/bolt"
	"github.com/postern-sdp/postern/internal/control"
)

var now = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func compile(t *testing.T, grants ...Grant) *Policy {
	t.Helper()
	p, err := Compile(grants...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestWhatNoGrantAllowsIsDenied(t *testing.T) {
	p := compile(t,
		Grant{Users: []string{"alice"}, Services: []string{"ssh"}, For: control.Duration(time.Hour)},
		Grant{Users: []string{"bob", "carol"}, Services: []string{Any}, For: control.Duration(2 * time.Hour)},
		Grant{Users: []string{Any}, Services: []string{"wiki"}},
		Grant{Users: []string{"alice"}, Services: []string{"wiki"}, For: control.Duration(time.Minute)})
	for _, c := range []struct {
		user, service string
		asked, want   time.Duration // want 0: denied
	}{
		{"alice", "ssh", 0, time.Hour},
		{"alice", "ssh", 10 * time.Minute, 10 * time.Minute},
		{"alice", "ssh", 10 * time.Hour, time.Hour},
		{"alice", "db", 0, 0},
		{"bob", "db", 0, 2 * time.Hour},
		{"dave", "ssh", 0, 0},
		{"dave", "wiki", 0, DefaultFor},
		{"alice", "wiki", 0, DefaultFor},
		{"", "wiki", 0, 0},
		{"bob", "", 0, 0},
		{Any, "ssh", 0, 0},
		{Any, "wiki", 0, 0},
		{"bob", Any, 0, 0},
		{"alice", "ssh", -time.Hour, 0},
		{"ALICE", "ssh", 0, 0},
		{"alice", "ssh", time.Millisecond, 0},
	} {
		got := p.Decide(Request{User: c.user, Service: c.service, Asked: c.asked, Now: now})
		if got.Allowed != (c.want > 0) || got.Allowed && !got.Until.Equal(now.Add(c.want)) || len(got.Reasons) == 0 {
			t.Errorf("%q → %q for %s: %+v, want %s", c.user, c.service, c.asked, got, c.want)
		}
	}
	if (&Policy{}).Decide(Request{User: "alice", Service: "ssh", Now: now}).Allowed || (Decision{}).Allowed {
		t.Error("an empty policy allows")
	}
}

func TestAFaultyPolicyFileIsRefusedWithItsPlace(t *testing.T) {
	for text, want := range map[string]string{
		"[[grant]]\nusers = [\"a\"]\nservice = [\"b\"]\n":                   `p.toml:3:1: unknown key "grant.service"`,
		"[[grant]]\nusers = \"a\"\n":                                        "p.toml:2:",
		"[[grant]]\nusers = [\"a\"]\nservices = []\n":                       "p.toml:1: grant number 1",
		"[[grant]]\nusers = [\"A\"]\nservices = [\"b\"]\n":                  badName,
		"[[grant]]\nusers = [\"a\"]\nservices = [\"b\"]\nfor = \"1000h\"\n": "grant's length",
		"[[grant]]\nusers = [\"a\"]\nservices = [\"b\"]\nfor = \"soon\"\n":  "p.toml:4:",
	} {
		path := filepath.Join(t.TempDir(), "p.toml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := Load(path); err == nil || !strings.Contains(err.Error(), want) || got != nil {
			t.Errorf("%q:\n%v, want %q", text, err, want)
		}
	}
}

// badName is part of what identity says of a bad name.
const badName = "a name is 1 to 63"

func TestGrantsByCommandComeAndGo(t *testing.T) {
	s, err := bolt.Open(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	b := NewBook(s)
	for _, length := range []time.Duration{time.Hour, 2 * time.Hour} {
		if err := b.Add("alice", "ssh", control.Duration(length)); err != nil {
			t.Fatal(err)
		}
	}
	all, err := b.List()
	if err != nil || len(all) != 1 || time.Duration(all[0].For) != 2*time.Hour || all[0].Origin != OriginCommand {
		t.Errorf("listed %+v, %v", all, err)
	}
	if err := b.Add("Alice", "ssh", 0); err == nil {
		t.Error("a bad name was taken")
	}
	if err := b.Remove("alice", "ssh"); err != nil {
		t.Error(err)
	}
	if err := b.Remove("alice", "ssh"); !errors.Is(err, ErrNoGrant) {
		t.Errorf("removed twice: %v", err)
	}
}

func TestEveryFaultOfAPolicyIsNamedWithItsLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "p.toml")
	text := "[[grant]]\nusers = [\"a\"]\nservices = [\"b\"]\n\n[[grant]] # bad\nusers = []\nservices = [\"b\"]\n" +
		"[[grant]]\nusers = [\"a\"]\nservices = [\"B\"]\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Load(path)
	if !errors.Is(err, ErrEmpty) || !errors.Is(err, identity.ErrName) {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{"p.toml:5: grant number 2", "p.toml:8: grant number 3"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %q", err, want)
		}
	}
}

func TestADecisionSaysWhichGrantItCameFrom(t *testing.T) {
	path := filepath.Join(t.TempDir(), "p.toml")
	text := "\n[[grant]]\nusers = [\"alice\", \"alice\"]\nservices = [\"ssh\", \"shs\"]\nfor = \"1h\"\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	grants, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	byCommand := Grant{Users: []string{"alice"}, Services: []string{"ssh"}, For: control.Duration(2 * time.Hour),
		Origin: OriginCommand}
	p := compile(t, append(grants, byCommand)...)
	got := p.Decide(Request{User: "alice", Service: "ssh", Now: now})
	want := []string{"granted for 1h0m0s by " + path + ":2", "granted for 2h0m0s by command"}
	if !slices.Equal(got.Reasons, want) || !got.Until.Equal(now.Add(2*time.Hour)) {
		t.Errorf("got %v until %v, want %v", got.Reasons, got.Until, want)
	}
	if missing := p.Unknown([]string{"ssh"}); !slices.Equal(missing, []string{"shs"}) {
		t.Errorf("unknown services: %v", missing)
	}
	if missing := compile(t, Grant{Users: []string{"a"}, Services: []string{Any}}).Unknown(nil); missing != nil {
		t.Errorf("unknown services: %v", missing)
	}
}

// A knock may wait for no search through ten thousand grants.
func TestADecisionLooksAtItsOwnUsersGrantsOnly(t *testing.T) {
	var grants []Grant
	for i := range 10_000 {
		grants = append(grants, Grant{Users: []string{fmt.Sprint("u", i)}, Services: []string{"ssh"}})
	}
	p := compile(t, grants...)
	if looked := len(p.byUser["u9999"]) + len(p.byUser[Any]); looked != 1 {
		t.Errorf("one decision looks at %d of %d grants", looked, len(grants))
	}
	if !p.Decide(Request{User: "u9999", Service: "ssh", Now: now}).Allowed {
		t.Error("denied")
	}
}
