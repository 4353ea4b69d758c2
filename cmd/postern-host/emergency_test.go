package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-sdp/postern/host"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/control/controltest"
)

// enrolled returns the configuration of a machine that is enrolled.
func enrolled(t *testing.T, more string) string {
	t.Helper()
	path := configuration(t, more)
	token, err := controltest.New(t).Token(control.RoleHost).Encode()
	if err != nil {
		t.Fatal(err)
	}
	if got := command(t, token, "enroll", "--config", path, "-"); got.code != exitOK {
		t.Fatalf("enroll: %s", got.talk)
	}
	return path
}

func listening(t *testing.T, address string) string {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return fmt.Sprintf("tcp/%d", l.Addr().(*net.TCPAddr).Port)
}

func TestAnEmergencyKeyIsShownOnceAndListedWithoutItsSecret(t *testing.T) {
	path := enrolled(t, "")
	port := listening(t, "0.0.0.0:0")
	got := command(t, "", "emergency", "create", "--config", path, "--service", "ssh", "--port", port,
		"--address", "192.0.2.1:4042", "--uses", "3")
	if got.code != exitOK || !strings.Contains(got.talk, "hint: it is a secret") {
		t.Fatalf("code %d:\n%s", got.code, got.talk)
	}
	k, err := control.ParseEmergencyKey(got.out)
	if err != nil || k.Service != "ssh" || k.Port.String() != port || k.Uses != 3 {
		t.Fatalf("%+v, %v", k, err)
	}
	if strings.Contains(got.talk, "nobody listens") || strings.Contains(got.talk, "loopback") {
		t.Errorf("a service that listens: %s", got.talk)
	}
	list := command(t, "", "emergency", "list", "--config", path, "--json")
	var keys []host.EmergencyKeyInfo
	if err := json.Unmarshal([]byte(list.out), &keys); err != nil || len(keys) != 1 || keys[0].ID != k.ID {
		t.Fatalf("%v: %s%s", err, list.out, list.talk)
	}
	text := strings.TrimPrefix(strings.TrimSpace(got.out), "postern-emergency:")
	log := command(t, "", "emergency", "log", "--config", path)
	table := command(t, "", "emergency", "list", "--config", path)
	for _, r := range []ran{list, log, table} {
		if r.code != exitOK || r.out == "" || strings.Contains(r.out+r.talk, text[:20]) {
			t.Errorf("code %d: %s%s", r.code, r.out, r.talk)
		}
	}
	if strings.Contains(got.talk, text[:20]) {
		t.Error("the key is in the talk, too")
	}
	revoked := command(t, "", "emergency", "revoke", "--config", path, k.ID.String())
	if revoked.code != exitNotRunning || !strings.Contains(revoked.out, "revoked "+k.ID.String()) {
		t.Errorf("code %d: %s%s", revoked.code, revoked.out, revoked.talk)
	}
	if r := command(t, "", "emergency", "log", "--verify", "--config", path); r.code != exitOK || r.out != "" {
		t.Errorf("verify: code %d: %s%s", r.code, r.out, r.talk)
	}
	if r := command(t, "", "emergency", "close", "--config", path); r.code != exitOK || r.out != "closed 0\n" {
		t.Errorf("close: code %d: %s%s", r.code, r.out, r.talk)
	}
}

func TestAnEmergencyKeyFileIsPrivateAndNeverOverwritten(t *testing.T) {
	path := enrolled(t, "")
	out := filepath.Join(t.TempDir(), "key")
	create := func() ran {
		return command(t, "", "emergency", "create", "--config", path, "--service", "ssh", "--port", "tcp/22",
			"--address", "h:4042", "--out", out)
	}
	if r := create(); r.code != exitOK || r.out != "" {
		t.Fatalf("code %d: %s%s", r.code, r.out, r.talk)
	}
	info, err := os.Stat(out)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if r := create(); r.code != exitFailed {
		t.Errorf("over an old key: code %d", r.code)
	}
	list := command(t, "", "emergency", "list", "--config", path, "--json")
	if strings.Count(list.out, `"service"`) != 1 {
		t.Errorf("the key that could not be handed over is kept:\n%s", list.out)
	}
}

func TestAKeyThatCannotHelpIsToldAtOnce(t *testing.T) {
	path := enrolled(t, "[tunnel]\ncapture = false\n[firewall]\nbackend = \"none\"\n")
	create := func(port string) ran {
		return command(t, "", "emergency", "create", "--config", path, "--service", "ssh", "--port", port,
			"--address", "h:4042")
	}
	local := create(listening(t, "127.0.0.1:0"))
	for _, want := range []string{"tunnel.capture is off", "no firewall", "loopback addresses only"} {
		if !strings.Contains(local.talk, want) {
			t.Errorf("want %q in:\n%s", want, local.talk)
		}
	}
	if r := create("tcp/1"); !strings.Contains(r.talk, "nobody listens") {
		t.Errorf("want a word on that in:\n%s", r.talk)
	}
}

func TestWrongUseOfEmergencyMakesNothing(t *testing.T) {
	path := enrolled(t, "")
	for _, args := range [][]string{
		{"frobnicate"}, {}, {"create"}, {"create", "--service", "ssh"},
		{"create", "--service", "ssh", "--port", "22"},
		{"create", "--service", "", "--port", "tcp/22"},
		{"create", "--service", "ssh", "--port", "tcp/22", "--for", "25h"},
		{"create", "--service", "ssh", "--port", "tcp/22", "--uses", "101"},
		{"create", "--service", "ssh", "--port", "tcp/22", "--address", "nowhere"},
		{"create", "--service", "ssh", "--port", "tcp/22", "extra"},
		{"create", "--nope"}, {"revoke"}, {"revoke", "x"}, {"close", "x"},
	} {
		full := []string{"emergency"}
		if len(args) > 0 {
			full = append(full, args[0])
		}
		if len(args) > 0 && args[0] != "frobnicate" {
			full = append(full, "--config", path)
		}
		if len(args) > 1 {
			full = append(full, args[1:]...)
		}
		r := command(t, "", full...)
		if r.code != exitUsage || !strings.Contains(r.talk, "hint: ") || r.out != "" {
			t.Errorf("%v: code %d: %s%s", args, r.code, r.out, r.talk)
		}
	}
	r := command(t, "", "emergency", "create", "--config", configuration(t, ""), "--service", "ssh", "--port", "tcp/22")
	if r.code != exitNotEnroled {
		t.Errorf("not enrolled: code %d: %s", r.code, r.talk)
	}
	if keys := command(t, "", "emergency", "list", "--config", path, "--json").out; keys != "[]\n" {
		t.Errorf("made %s", keys)
	}
	unknown := command(t, "", "emergency", "revoke", "--config", path, strings.Repeat("0a", 16))
	if unknown.code != exitFailed || !strings.Contains(unknown.talk, "hint: ") {
		t.Errorf("an unknown key: code %d: %s", unknown.code, unknown.talk)
	}
}
