package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-sdp/postern/host"
	"github.com/postern-sdp/postern/internal/testkit"
)

const bootUnit = "../../configs/systemd/postern-host-firewall.service"

// run runs the program as the service's user, with the capabilities of a unit.
func (s *service) run(unit string, args ...string) (string, error) {
	s.t.Helper()
	return s.execute(unit, append([]string{s.me}, args...)...)
}

func (s *service) execute(unit string, line ...string) (string, error) {
	s.t.Helper()
	line = slices.Concat(testkit.Setpriv(account, testkit.Unit(s.t, unit, "AmbientCapabilities")), line)
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Env = []string{asProgram + "=1", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "POSTERN_HOST_CONFIG=" + s.config,
		"STATE_DIRECTORY=" + s.folder}
	var out []byte
	var err error
	s.ns.Do(s.t, func() { out, err = cmd.CombinedOutput() })
	return string(out), err
}

// boot runs what the boot's unit runs, after what a reboot forgets. program stands for
// ours, and patience for the time that the first attempt has.
func (s *service) boot(program, patience string) (string, error) {
	s.t.Helper()
	s.ns.Run(s.t, "nft", "flush", "ruleset")
	words := testkit.Unit(s.t, bootUnit, "ExecStart")
	line := strings.Trim(strings.Join(words[2:], " "), "'")
	line = strings.NewReplacer("/usr/bin/postern-host", program, "timeout -k 2 10", patience).Replace(line)
	return s.execute(bootUnit, "/bin/sh", "-c", line)
}

// asRoot runs the program as an administrator does.
func (s *service) asRoot(args ...string) string {
	s.t.Helper()
	out, err := s.root(args...)
	if err != nil {
		s.t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return out
}

func (s *service) root(args ...string) (string, error) {
	s.t.Helper()
	cmd := exec.Command(s.me, append(args, "--config", s.config)...)
	cmd.Env = append(os.Environ(), asProgram+"=1", "STATE_DIRECTORY="+s.folder)
	var out []byte
	var err error
	s.ns.Do(s.t, func() { out, err = cmd.CombinedOutput() })
	return string(out), err
}

// TestTheBootsUnitMakesAProtectedMachineDark with its own user and capabilities, from
// what root's commands decided in the service's folder.
func TestTheBootsUnitMakesAProtectedMachineDark(t *testing.T) {
	s := newService(t)
	s.asRoot("unprotect", "--yes")
	if out, err := s.run(bootUnit, "firewall", "up", "--config", s.config); err != nil || strings.Contains(s.rules(), "postern") {
		t.Fatalf("unprotected: %v %s\n%s", err, out, s.rules())
	}
	s.asRoot("protect", "--now", "--yes")
	before := s.rules()
	s.ns.Run(t, "nft", "flush", "ruleset") // as a reboot does
	out, err := s.run(bootUnit, "firewall", "up", "--config", s.config)
	if err != nil {
		t.Fatalf("protected: %v\n%s", err, out)
	}
	if after := s.rules(); after != before || !strings.Contains(after, "policy drop") {
		t.Errorf("the rules were:\n%s\nand are:\n%s", before, after)
	}
	// A configuration that cannot be used leaves the machine dark too.
	s.configure("[[keep]]\nsource = \"nowhere\"\n")
	s.ns.Run(t, "nft", "flush", "ruleset")
	if _, err := s.run(bootUnit, "firewall", "up", "--config", s.config); err == nil {
		t.Error("a broken configuration was taken")
	}
	if out, err := s.run(bootUnit, "firewall", "up", "--closed"); err != nil || !strings.Contains(s.rules(), "policy drop") {
		t.Errorf("what the unit falls back on: %v\n%s", err, out)
	}
}

// TestARecordThatCannotBeReadIsDarkAndIsDecidedAnew: at boot and with the agent the
// configured rules are in force, the doctor says so, and each command replaces it.
func TestARecordThatCannotBeReadIsDarkAndIsDecidedAnew(t *testing.T) {
	s := newService(t)
	s.configure("[[keep]]\nsource = \"192.0.2.99\"\n")
	record := filepath.Join(s.state, "protection.json")
	damage := func(text string, mode os.FileMode) {
		t.Helper()
		if err := errors.Join(os.WriteFile(record, []byte(text), 0o600), os.Chmod(record, mode)); err != nil {
			t.Fatal(err)
		}
		s.ns.Run(t, "nft", "flush", "ruleset")
	}
	dark := func() bool {
		return strings.Contains(s.rules(), "policy drop") && strings.Contains(s.rules(), "192.0.2.99")
	}
	for _, c := range []struct {
		text string
		mode os.FileMode
	}{{"{", 0o600}, {`{"version":2,"state":"off"}`, 0o600}, {`{"version":1,"state":"off"}`, 0o644}} {
		damage(c.text, c.mode)
		out, err := s.run(bootUnit, "firewall", "up", "--config", s.config)
		if err != nil || !dark() || !strings.Contains(out, "so the rules are in force") {
			t.Errorf("%s: at boot: %v\n%s%s", c.text, err, out, s.rules())
		}
	}
	damage("{", 0o600)
	s.start(testkit.Unit(t, agentUnit, "AmbientCapabilities"))
	s.hear("READY=1")
	if !dark() || !strings.Contains(s.log.String(), "CANNOT BE RELIED ON") {
		t.Errorf("the agent serves without rules:\n%s", s.rules())
	}
	out, err := s.run(agentUnit, "doctor", "--config", s.config)
	if err == nil || !strings.Contains(out, "damaged: it counts as on") {
		t.Errorf("the doctor: %v\n%s", err, out)
	}
	for _, c := range []struct{ command, then string }{
		{"protect --yes --now", "on"}, {"protect --yes", "trial"}, {"confirm --force", "on"}, {"unprotect", "off"},
	} {
		damage("{", 0o600)
		if out := s.asRoot(strings.Fields(c.command)...); !strings.Contains(out, "damaged") {
			t.Errorf("%s does not say what it found:\n%s", c.command, out)
		}
		if out := s.asRoot("firewall", "show"); !strings.Contains(out, "protection: "+c.then+"\n") &&
			!strings.Contains(out, "protection: "+c.then+",") {
			t.Errorf("after %s:\n%s", c.command, out)
		}
	}
	testkit.Eventually(t, 10*time.Second, "the agent has followed", func() bool {
		return !strings.Contains(s.rules(), "table inet "+host.DefaultTable)
	})
	s.stop()
}

// TestABootWithoutABackendPutsNothingInForce and takes nothing away, although the record
// says that the machine is protected.
func TestABootWithoutABackendPutsNothingInForce(t *testing.T) {
	s := newService(t)
	s.configure("[firewall]\nbackend = \"none\"\n")
	out, err := s.boot(s.me, "")
	if err != nil || s.rules() != "" || !strings.Contains(out, "nothing is put in force") {
		t.Errorf("%v\n%s%s", err, out, s.rules())
	}
	s.configure("")
	s.asRoot("protect", "--now", "--yes")
	if _, err := s.boot(s.me, ""); err != nil {
		t.Fatal(err)
	}
	before := s.rules()
	s.configure("[firewall]\nbackend = \"none\"\n")
	out, err = s.run(bootUnit, "firewall", "up")
	if err != nil || s.rules() != before || !strings.Contains(out, "postern-host unprotect") {
		t.Errorf("with rules of before: %v\n%s%s", err, out, s.rules())
	}
	s.configure("tunel = 1\n") // who has no backend does not get one by a typing mistake
	if out, err := s.boot(s.me, ""); err != nil || s.rules() != "" {
		t.Errorf("with a fault: %v\n%s%s", err, out, s.rules())
	}
}

// TestABootWithAFaultyFileIsDarkWhereTheLastGoodOneWas: its state folder says whether,
// its table is the one, and the keep rules are gone.
func TestABootWithAFaultyFileIsDarkWhereTheLastGoodOneWas(t *testing.T) {
	s := newService(t)
	s.configure("[firewall]\ntable = \"other\"\n[[keep]]\nsource = \"192.0.2.99\"\n")
	for range 2 { // nothing was noted before the first time
		if out, err := s.boot(s.me, ""); err != nil || !strings.Contains(s.rules(), "192.0.2.99") {
			t.Fatalf("%v\n%s%s", err, out, s.rules())
		}
	}
	s.configure("tunel = 1\n")
	out, err := s.boot(s.me, "")
	got := s.rules()
	if err != nil || !strings.Contains(got, "table inet other") || !strings.Contains(got, "policy drop") ||
		strings.Contains(got, "table inet postern") || strings.Contains(got, "192.0.2.99") {
		t.Errorf("with a fault: %v\n%s%s", err, out, got)
	}
	s.asRoot("unprotect")
	if got := s.rules(); strings.Contains(got, "other") {
		t.Errorf("unprotect left\n%s", got)
	}
	if out, err := s.boot(s.me, ""); err != nil || s.rules() != "" {
		t.Errorf("unprotected, with a fault: %v\n%s%s", err, out, s.rules())
	}
}

func TestABootWhoseFirstAttemptHangsIsDark(t *testing.T) {
	s := newService(t)
	hanging := filepath.Join(s.dir, "hanging")
	script := "#!/bin/sh\ncase \"$*\" in *closed*) exec " + s.me + " \"$@\" ;; esac\nexec sleep 600\n"
	if err := os.WriteFile(hanging, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := s.boot(s.me, ""); err != nil { // which is noted
		t.Fatal(err)
	}
	if out, err := s.boot(hanging, "timeout -k 2 0.2"); err != nil || !strings.Contains(s.rules(), "policy drop") {
		t.Errorf("%v\n%s%s", err, out, s.rules())
	}
}

// TestARunningAgentAndTheCommandsAgreeOnTheRules, also when the configuration was edited
// since the agent started.
func TestARunningAgentAndTheCommandsAgreeOnTheRules(t *testing.T) {
	s := newService(t)
	s.asRoot("unprotect")
	s.start(testkit.Unit(t, agentUnit, "AmbientCapabilities"))
	s.hear("READY=1")
	const keep = "[[keep]]\nsource = \"192.0.2.99\"\n"
	for _, c := range []struct{ edited, key string }{
		{"[firewall]\nbackend = \"iptables\"\n" + keep, "firewall.backend"},
		{"[firewall]\ntable = \"other\"\n" + keep, "firewall.table"},
		{"[tunnel]\nlisten = \"[::]:4142\"\n" + keep, "tunnel.listen"},
	} {
		s.configure(c.edited)
		out, err := s.root("protect", "--yes")
		if err == nil || !strings.Contains(out, c.key) || !strings.Contains(out, "restart") {
			t.Errorf("%s: %v\n%s", c.key, err, out)
		}
		if strings.Contains(s.rules(), "drop") {
			t.Fatalf("%s: the rules are in force:\n%s", c.key, s.rules())
		}
	}
	s.configure(keep + "[emergency]\nonly_when_alone = \"2m\"\n") // which waits, and is no matter here
	s.asRoot("protect", "--yes")
	testkit.Eventually(t, 10*time.Second, "the agent has followed", func() bool {
		return strings.Contains(s.log.String(), "state=trial")
	})
	if got := s.rules(); !strings.Contains(got, "192.0.2.99") {
		t.Errorf("the agent took the keep rule away:\n%s", got)
	}
	s.configure("[tunnel]\nlisten = \"[::]:4142\"\n" + keep)
	for _, command := range []string{"confirm --force", "firewall up"} {
		if out, err := s.root(strings.Fields(command)...); err == nil || !strings.Contains(out, "tunnel.listen") {
			t.Errorf("%s: %v\n%s", command, err, out)
		}
	}
	s.asRoot("firewall", "up", "--closed") // as the unit does then, when it is started again
	if got := s.rules(); !strings.Contains(got, "192.0.2.99") || !strings.Contains(got, "policy drop") {
		t.Errorf("beside the agent the rules became\n%s", got)
	}
	s.asRoot("unprotect") // in whatever state
	s.stop()
}

// TestRootsDecisionsAreTheServicesOwn: the agent reads and changes what root wrote.
func TestRootsDecisionsAreTheServicesOwn(t *testing.T) {
	s := newService(t)
	s.asRoot("unprotect", "--yes")
	s.asRoot("protect", "--yes", "--revert-after", "10m")
	s.start(testkit.Unit(t, agentUnit, "AmbientCapabilities"))
	s.hear("READY=1")
	s.asRoot("confirm", "--force")
	if !strings.Contains(s.asRoot("firewall", "show"), "protection: on") {
		t.Error("not confirmed")
	}
	s.stop()
	if out, err := s.run(agentUnit, "firewall", "show", "--config", s.config); err != nil || !strings.Contains(out, "protection: on") {
		t.Errorf("the service's user: %v\n%s", err, out)
	}
}
