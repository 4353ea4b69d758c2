package main

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/postern-sdp/postern/internal/testkit"
)

const bootUnit = "../../configs/systemd/postern-host-firewall.service"

// run runs the program as the service's user, with the capabilities of a unit.
func (s *service) run(unit string, args ...string) (string, error) {
	s.t.Helper()
	line := slices.Concat(testkit.Setpriv(account, testkit.Unit(s.t, unit, "AmbientCapabilities")),
		[]string{s.me}, args)
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Env = []string{asProgram + "=1", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	var out []byte
	var err error
	s.ns.Do(s.t, func() { out, err = cmd.CombinedOutput() })
	return string(out), err
}

// asRoot runs the program as an administrator does.
func (s *service) asRoot(args ...string) string {
	s.t.Helper()
	cmd := exec.Command(s.me, append(args, "--config", s.config)...)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	var out []byte
	var err error
	s.ns.Do(s.t, func() { out, err = cmd.CombinedOutput() })
	if err != nil {
		s.t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return string(out)
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
	s.configure("") // closed.toml: an empty configuration, on the same state
	if out, err := s.run(bootUnit, "firewall", "up", "--config", s.config); err != nil || !strings.Contains(s.rules(), "policy drop") {
		t.Errorf("what the unit falls back on: %v\n%s", err, out)
	}
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
