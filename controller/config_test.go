package controller

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/internal/config"
)

const example = "../configs/controller.toml"

func load(t *testing.T, text string) (Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "controller.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return LoadConfig(path)
}

func TestTheExampleShowsEveryKeyWithItsDefault(t *testing.T) {
	want := Defaults()
	want.Name = "gate.example"
	got, err := LoadConfig(example)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("the example differs from the defaults (-got +want):\n%s", diff)
	}
	text, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	commented := regexp.MustCompile(`(?m)^#(\[|[a-z_]+ = )`)
	all, err := load(t, commented.ReplaceAllString(string(text), "$1"))
	if err != nil {
		t.Fatalf("with the comments taken away: %v", err)
	}
	want.Keep = []config.Keep{{Source: "192.0.2.0/24", Interface: "eth1", Ports: []string{"tcp/22"}, Until: "2026-12-31"}}
	want.Knock.Advertise, want.Knock.Interfaces, want.Control.Advertise = []string{}, []string{}, []string{}
	if diff := cmp.Diff(all, want); diff != "" {
		t.Errorf("a commented key is not its default (-got +want):\n%s", diff)
	}
	printed := regexp.MustCompile(`(?m)^([a-z_]+) = `)
	for _, key := range printed.FindAllStringSubmatch(want.TOML(), -1) {
		if !regexp.MustCompile(`(?m)^#?` + key[1] + ` = `).MatchString(string(text)) {
			t.Errorf("the example does not show %s", key[1])
		}
	}
}

func TestWhatCheckPrintsIsAConfiguration(t *testing.T) {
	want := Defaults()
	want.Name = "gate.test"
	want.Knock.Advertise = []string{"gate.test:4040"}
	want.Knock.Interfaces, want.Control.Advertise = []string{}, []string{"192.0.2.1:4041"}
	want.Keep = []config.Keep{
		{Source: "2001:db8::/32", Interface: "eth1", Ports: []string{"tcp/22", "udp/51820"}, Until: "2099-12-31"},
		{Interface: "br-*", Ports: []string{}},
	}
	if reflect.TypeFor[config.Keep]().NumField() != 4 {
		t.Fatal("this test does not know every key of [[keep]]")
	}
	got, err := load(t, want.TOML())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("-got +want:\n%s", diff)
	}
}

func TestAllFaultsAreNamedWithTheirKeys(t *testing.T) {
	_, err := load(t, `
name = "Gate"
state = "relative"
log_level = "loud"
[knock]
listen = "4040"
source = "wire"
advertise = ["nowhere"]
[control]
advertise = ["0.0.0.0:1"]
certificate_lifetime = "1s"
[firewall]
backend = "ufw"
table = ""
[[keep]]
source = "everywhere"
`)
	if err == nil {
		t.Fatal("accepted")
	}
	for _, key := range []string{
		"name:", "state:", "log_level:", "knock.listen:", "knock.source:", "knock.advertise:",
		"control.advertise:", "control.certificate_lifetime:", "firewall.backend:", "firewall.table:", "keep:",
	} {
		if !strings.Contains(err.Error(), key) {
			t.Errorf("the fault of %s is not named in:\n%v", strings.TrimSuffix(key, ":"), err)
		}
	}
	for text, want := range map[string]string{
		"name = \"a\"\nnmae = \"b\"\n": ":2:1: unknown key",
		"name = 7\n":                   ":1:",
		"name = \"a\"\n[knock]\ninterfaces = [\"eth0\"]\n":           "knock.interfaces",
		"name = \"a\"\n[firewall]\ninside = [\"docker 0\"]\n":        "firewall: inside",
		"name = \"a\"\n[control]\nlisten = \"[::]:4040\"\n":          "control.listen",
		"name = \"a\"\n[[keep]]\nsource = \"::1\"\nports = [\"22\"]": "keep",
	} {
		if _, err := load(t, text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q in it", text, err, want)
		}
	}
}

func TestTheKnockPortIsOpenForASocketOnly(t *testing.T) {
	c := Defaults()
	c.Name = "a"
	c.Keep = []config.Keep{{Source: "192.0.2.7", Ports: []string{"tcp/22"}}}
	got, err := c.Rules()
	if err != nil {
		t.Fatal(err)
	}
	want := firewall.Rules{
		OpenPorts: []firewall.Port{{Protocol: firewall.UDP, Number: 4040}},
		Inside:    config.Bridges(),
		Keep: []firewall.Keep{{
			Source: netip.MustParsePrefix("192.0.2.7/32"),
			Ports:  []firewall.Port{{Protocol: firewall.TCP, Number: 22}},
		}},
	}
	if diff := cmp.Diff(got, want, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("-got +want:\n%s", diff)
	}
	c.Knock.Source = SourceCapture
	if got, err = c.Rules(); err != nil || len(got.OpenPorts) != 0 {
		t.Errorf("with capture %v are open (%v), want none", got.OpenPorts, err)
	}
}

func TestInitNeverOverwrites(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if _, err := Init(dir, "gate.test"); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(filepath.Join(dir, selfFile))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Init(dir, "gate.test"); err == nil {
		t.Error("a second init was accepted")
	}
	after, err := os.ReadFile(filepath.Join(dir, selfFile))
	if err != nil || string(after) != string(before) {
		t.Error("the second init changed the controller")
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(e.Name(), ".pem") {
			continue // a certificate is public
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o", e.Name(), info.Mode().Perm())
		}
	}
	if _, err := Init(filepath.Join(dir, "..", "other"), "Not A Name"); err == nil {
		t.Error("a bad name was accepted")
	}
	if _, err := os.Stat(filepath.Join(dir, "..", "other")); err == nil {
		t.Error("a failed init left a folder behind")
	}
}

func TestDamagedStateIsRefusedAndLeftAlone(t *testing.T) {
	for name, spoil := range map[string]func(string) []byte{
		selfFile: func(string) []byte { return []byte(`{"version":1}`) },
		"newer":  func(string) []byte { return []byte(`{"version":99}`) },
	} {
		t.Run(name, func(t *testing.T) {
			c := Defaults()
			c.Name, c.State = "gate.test", filepath.Join(t.TempDir(), "state")
			if _, err := Init(c.State, c.Name); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(c.State, selfFile)
			want := spoil(path)
			if err := os.WriteFile(path, want, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := New(Options{Config: c, Log: discard()}); err == nil {
				t.Error("accepted")
			}
			if got, _ := os.ReadFile(path); string(got) != string(want) {
				t.Error("the file was changed")
			}
		})
	}
	c := Defaults()
	c.Name, c.State = "gate.test", filepath.Join(t.TempDir(), "state")
	if _, err := Init(c.State, c.Name); err != nil {
		t.Fatal(err)
	}
	c.Name = "other.test"
	if _, err := New(Options{Config: c, Log: discard()}); err == nil {
		t.Error("a controller of another name was started from this state")
	}
}
