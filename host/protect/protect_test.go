package protect

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/internal/atomicfile"
)

// kernel notes what it was told last.
type kernel struct {
	firewall.Firewall
	rules  *firewall.Rules // nil: none installed
	broken error
}

func (k *kernel) Install(_ context.Context, r firewall.Rules) error {
	if k.broken == nil {
		k.rules = &r
	}
	return k.broken
}

func (k *kernel) Remove(context.Context) error {
	if k.broken == nil {
		k.rules = nil
	}
	return k.broken
}

// machine is a host with a clock that tests set.
type machine struct {
	Switch
	kernel *kernel
	clock  Clock
}

func newMachine(t *testing.T) *machine {
	m := &machine{kernel: &kernel{}, clock: Clock{Boot: "this boot", Now: time.Hour}}
	m.Switch = Switch{
		Store:    Store{Folder: filepath.Join(t.TempDir(), "state"), Clock: func() (Clock, error) { return m.clock, nil }},
		Firewall: m.kernel,
		Rules:    firewall.Rules{Keep: []firewall.Keep{{Source: netip.MustParsePrefix("10.0.0.0/8")}}},
		Backend:  "nftables",
	}
	return m
}

var admin = Way{Source: netip.MustParsePrefix("192.0.2.7/32"), Port: 22}

const first, second = "192.0.2.7 50000 198.51.100.1 22", "192.0.2.7 50001 198.51.100.1 22"

func (m *machine) begin(t *testing.T, trial time.Duration) {
	t.Helper()
	if _, err := m.Begin(t.Context(), trial, []Way{admin}, first); err != nil {
		t.Fatal(err)
	}
}

func (m *machine) restore(t *testing.T) State {
	t.Helper()
	s, err := m.Restore(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func compareRules(t *testing.T, got *firewall.Rules, want firewall.Rules) {
	t.Helper()
	if got == nil {
		t.Fatal("no rules are installed")
	}
	same := cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
	if diff := cmp.Diff(want, *got, same); diff != "" {
		t.Errorf("rules differ (-want +got):\n%s", diff)
	}
}

func TestATrialKeepsTheAdministratorsWayInAndEnds(t *testing.T) {
	m := newMachine(t)
	m.begin(t, 5*time.Minute)
	want := m.Rules
	want.Trial = 5 * time.Minute
	want.Keep = append([]firewall.Keep(nil), want.Keep...)
	want.Keep = append(want.Keep, firewall.Keep{
		Source: admin.Source, Ports: []firewall.Port{{Protocol: firewall.TCP, Number: 22}}, TTL: 5 * time.Minute,
	})
	compareRules(t, m.kernel.rules, want)
	m.clock.Now += 4 * time.Minute // an agent that starts now goes on with what is left
	if s := m.restore(t); s != Trial {
		t.Errorf("after 4 of 5 minutes it is %s", s)
	}
	want.Trial, want.Keep[1].TTL = time.Minute, time.Minute
	compareRules(t, m.kernel.rules, want)
	m.clock.Now += time.Minute
	if s := m.restore(t); s != Off || m.kernel.rules != nil {
		t.Errorf("after 5 minutes it is %s, rules %v", s, m.kernel.rules)
	}
	r, _, err := m.Store.Read()
	if err != nil || r.State != Off {
		t.Errorf("the record says %s, %v", r.State, err)
	}
}

func TestAConfirmedTrialStaysWithoutTheAdministratorsWay(t *testing.T) {
	m := newMachine(t)
	m.begin(t, 5*time.Minute)
	if _, err := m.Confirm(t.Context(), first, false, 0); !errors.Is(err, ErrSameLogin) {
		t.Errorf("by the same login: %v", err)
	}
	if m.kernel.rules.Trial == 0 {
		t.Error("the refused confirmation ended the trial")
	}
	if _, err := m.Confirm(t.Context(), second, false, 0); err != nil {
		t.Fatal(err)
	}
	compareRules(t, m.kernel.rules, m.Rules)
	m.clock = Clock{Boot: "the next boot", Now: time.Second}
	m.kernel.rules = nil
	if s := m.restore(t); s != On {
		t.Errorf("after a reboot it is %s", s)
	}
	compareRules(t, m.kernel.rules, m.Rules)
	if _, err := m.Confirm(t.Context(), second, false, 0); !errors.Is(err, ErrNoTrial) {
		t.Errorf("a second confirmation: %v", err)
	}
}

func TestTheAdministratorsWayMayStayForAWhile(t *testing.T) {
	m := newMachine(t)
	m.begin(t, 5*time.Minute)
	if _, err := m.Confirm(t.Context(), first, true, time.Hour); err != nil {
		t.Fatal(err)
	}
	if k := m.kernel.rules.Keep; len(k) != 2 || k[1].TTL != time.Hour {
		t.Errorf("kept: %v", k)
	}
	m.clock.Now += 59 * time.Minute
	m.restore(t)
	if k := m.kernel.rules.Keep; len(k) != 2 || k[1].TTL != time.Minute {
		t.Errorf("kept after 59 minutes: %v", k)
	}
	m.clock = Clock{Boot: "the next boot", Now: time.Second}
	m.restore(t)
	compareRules(t, m.kernel.rules, m.Rules)
}

func TestARebootEndsATrial(t *testing.T) {
	m := newMachine(t)
	m.begin(t, 5*time.Minute)
	m.clock = Clock{Boot: "the next boot", Now: time.Second} // earlier on its clock
	m.kernel.rules = nil
	if s := m.restore(t); s != Off || m.kernel.rules != nil {
		t.Errorf("after a reboot it is %s, rules %v", s, m.kernel.rules)
	}
	if _, err := m.Confirm(t.Context(), second, false, 0); !errors.Is(err, ErrNoTrial) {
		t.Errorf("confirmed in another boot: %v", err)
	}
}

// unreadables are records that say nothing, with the mode of their file.
var unreadables = []struct {
	text string
	mode os.FileMode
	is   error
}{
	{"", 0o600, ErrRecord},
	{"{", 0o600, ErrRecord},
	{`{"version":1,"state":"perhaps"}`, 0o600, ErrRecord},
	{"null", 0o600, ErrRecord},
	{`{"version":2,"state":"off"}`, 0o600, ErrNewer},
	{`{"version":1,"state":"off"}`, 0o644, atomicfile.ErrNotPrivate},
}

func TestARecordThatCannotBeReadIsTakenForOnAndLeftAsItIs(t *testing.T) {
	m := newMachine(t)
	m.begin(t, 0)
	path := filepath.Join(m.Store.Folder, recordName)
	for _, u := range unreadables {
		if err := errors.Join(os.WriteFile(path, []byte(u.text), 0o600), os.Chmod(path, u.mode)); err != nil {
			t.Fatal(err)
		}
		m.kernel.rules = nil
		s, err := m.Restore(t.Context())
		if !errors.Is(err, u.is) || !errors.Is(err, ErrUnsure) || s != On {
			t.Errorf("%q: %s, %v", u.text, s, err)
		}
		compareRules(t, m.kernel.rules, m.Rules)
		if text, err := os.ReadFile(path); err != nil || string(text) != u.text {
			t.Errorf("%q is now %q, %v", u.text, text, err)
		}
	}
	m.kernel.broken = errors.New("no room")
	if s, err := m.Restore(t.Context()); !errors.Is(err, m.kernel.broken) || errors.Is(err, ErrUnsure) || s != On {
		t.Errorf("nothing is in force: %s, %v", s, err)
	}
}

func TestWhoDecidesAnewReplacesARecordThatCannotBeRead(t *testing.T) {
	m := newMachine(t)
	m.begin(t, 0)
	path := filepath.Join(m.Store.Folder, recordName)
	for _, u := range unreadables {
		for what, decide := range map[State]func() error{
			On:    func() error { _, err := m.Confirm(t.Context(), second, false, 0); return err },
			Trial: func() error { _, err := m.Begin(t.Context(), time.Minute, nil, first); return err },
			Off:   func() error { return m.Revert(t.Context()) },
		} {
			if err := errors.Join(os.WriteFile(path, []byte(u.text), 0o600), os.Chmod(path, u.mode)); err != nil {
				t.Fatal(err)
			}
			m.kernel.rules = nil
			if err := decide(); err != nil || (m.kernel.rules == nil) != (what == Off) {
				t.Errorf("%q: %s: %v, rules %v", u.text, what, err, m.kernel.rules)
			}
			if r, c, err := m.Store.Read(); err != nil || r.At(c) != what {
				t.Errorf("%q: the record says %s, %v, want %s", u.text, r.At(c), err, what)
			}
		}
	}
}

func TestALockThatCannotBeHadKeepsNoRulesAway(t *testing.T) {
	m := newMachine(t)
	m.begin(t, 5*time.Minute)
	want := *m.kernel.rules
	m.kernel.rules = nil
	m.Store.lockWith = func(int, int) error { return syscall.ENOLCK }
	if s, err := m.Restore(t.Context()); !errors.Is(err, ErrUnsure) || s != Trial {
		t.Errorf("%s, %v", s, err)
	}
	compareRules(t, m.kernel.rules, want)
}

func TestNothingChangesWhenTheRecordCannotBeWritten(t *testing.T) {
	m := newMachine(t)
	m.begin(t, 0)
	before := *m.kernel.rules
	path := filepath.Join(m.Store.Folder, recordName)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// A folder in the way of the rename, as root may write anywhere.
	if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o700),
		os.WriteFile(filepath.Join(path, "in the way"), text, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := m.Revert(t.Context()); err == nil {
		t.Error("Revert says that it is done")
	}
	if m.kernel.rules == nil {
		t.Fatal("the rules are gone, and the record is not")
	}
	compareRules(t, m.kernel.rules, before)
}

func TestOtherLoginsAreToldApart(t *testing.T) {
	for text, want := range map[string]Login{
		first: {Source: netip.MustParseAddrPort("192.0.2.7:22"), Name: first},
		"::ffff:192.0.2.7 5 ::ffff:198.51.100.1 2222": {Source: netip.MustParseAddrPort("192.0.2.7:2222"),
			Name: "::ffff:192.0.2.7 5 ::ffff:198.51.100.1 2222"},
		"127.0.0.1 5 127.0.0.1 22": {Source: netip.MustParseAddrPort("127.0.0.1:22"), Name: "127.0.0.1 5 127.0.0.1 22"},
		"":                         {}, "a b c d": {}, "192.0.2.7 5 198.51.100.1": {}, "192.0.2.7 5 198.51.100.1 0": {},
	} {
		got, ok := parseLogin(text)
		if got != want || ok != (want != Login{}) {
			t.Errorf("%q: %+v, %v", text, got, ok)
		}
		_, way := got.Way()
		if wantWay := ok && !got.Source.Addr().IsLoopback(); way != wantWay {
			t.Errorf("%q: a way to keep: %v, want %v", text, way, wantWay)
		}
	}
}

func TestAConsoleIsATerminalThatNoProgramMade(t *testing.T) {
	for text, want := range map[string]bool{
		"1 (bash) S 7 1 1 1025 1 0": true,  // tty1
		"1 (a) b) S 7 1 1 1088 1 0": true,  // ttyS0
		"1 (bash) S 7 1 1 58624 1":  true,  // hvc0
		"1 (bash) S 7 1 1 34816 1":  false, // pts/0
		"1 (bash) S 7 1 1 34830 1":  false,
		"1 (bash) S 7 1 1 0 -1 0":   false,
		"1 (bash) S 7":              false,
	} {
		s := parseStat([]byte(text))
		if isConsole(s.terminal) != want || want && s.parent != 7 {
			t.Errorf("%s: %+v, want a console: %t", text, s, want)
		}
	}
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"version":1,"state":"on"}`))
	f.Add([]byte(`{"version":1,"state":"trial","boot":"b","until":5,"admins":[{"source":"192.0.2.7/32","port":22,"until":5}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := parse(text)
		if err != nil {
			return
		}
		rules, _ := r.Rules(firewall.Rules{}, Clock{Boot: r.Boot, Now: 1})
		if err := rules.Validate(); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
	})
}
