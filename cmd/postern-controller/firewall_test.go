package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-sdp/postern/controller"
	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/firewall/nft"
	"github.com/postern-sdp/postern/internal/config"
	"github.com/postern-sdp/postern/internal/testkit"
)

const bootUnit = "../../configs/systemd/postern-controller-firewall.service"

// firewall runs the command in the service's namespace, as the unit's user would.
func (s *service) firewall(args ...string) (out, talk string, err error) {
	s.t.Helper()
	return s.execute(slices.Concat([]string{s.me, "--config", s.config, "firewall"}, args)...)
}

// boot runs what the boot's unit runs, after what a reboot forgets.
func (s *service) boot() {
	s.t.Helper()
	s.ns.Run(s.t, "nft", "flush", "ruleset")
	words := testkit.Unit(s.t, bootUnit, "ExecStart")
	line := strings.Trim(strings.Join(words[2:], " "), "'")
	line = strings.ReplaceAll(line, "/usr/bin/postern-controller", s.me)
	if _, talk, err := s.execute("/bin/sh", "-c", line); err != nil {
		s.t.Fatalf("boot: %v\n%s", err, talk)
	}
}

// execute runs a command line as the unit's user would.
func (s *service) execute(line ...string) (out, talk string, err error) {
	s.t.Helper()
	line = slices.Concat(testkit.Setpriv(account, testkit.Unit(s.t, bootUnit, "AmbientCapabilities")), line)
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "POSTERN_CONTROLLER_CONFIG=" + s.config,
		"STATE_DIRECTORY=" + filepath.Join(s.dir, "state")}
	var o, e strings.Builder
	cmd.Stdout, cmd.Stderr = &o, &e
	s.ns.Do(s.t, func() { err = cmd.Run() })
	return o.String(), e.String(), err
}

// must runs the command to a good end and returns its data.
func (s *service) must(args ...string) string {
	s.t.Helper()
	out, talk, err := s.firewall(args...)
	if err != nil {
		s.t.Fatalf("firewall %v: %v\n%s", args, err, talk)
	}
	return out
}

// kernel returns every rule and set of the namespace.
func (s *service) kernel() string {
	s.t.Helper()
	text := ""
	for _, command := range []string{"nft list ruleset", "iptables-legacy-save", "ip6tables-legacy-save", "ipset list"} {
		fields := strings.Fields(command)
		text += s.ns.Run(s.t, fields[0], fields[1:]...)
	}
	return text
}

func (s *service) add(text string) {
	s.t.Helper()
	b, err := os.ReadFile(s.config)
	if err == nil {
		err = os.WriteFile(s.config, append(b, text...), 0o644)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// TestTheRulesComeAndGoWithoutAController, whichever backend has them, under the name
// that the configuration gives; and a backend that is ordered afterwards is no reason
// to leave any.
func TestTheRulesComeAndGoWithoutAController(t *testing.T) {
	for _, test := range []struct{ backend, table string }{
		{"nftables", "gatehouse"}, {"iptables", "gatehouse"}, {"iptables", controller.DefaultTable},
	} {
		t.Run(test.backend+" "+test.table, func(t *testing.T) {
			s := newService(t)
			s.add(fmt.Sprintf("[firewall]\ntable = %q\nbackend = %q\n", test.table, test.backend))
			planned := s.must("up", "--dry-run", "--json")
			if strings.Contains(strings.ToLower(s.kernel()), test.table) {
				t.Errorf("a dry run installed\n%s", s.kernel())
			}
			var got installation
			if err := json.Unmarshal([]byte(planned), &got); err != nil || !strings.HasPrefix(got.Backend, test.backend) || !got.DryRun {
				t.Errorf("planned %s: %v", planned, err)
			}
			s.must("up")
			s.must("up") // once more does no harm
			if !strings.Contains(strings.ToLower(s.kernel()), test.table) {
				t.Errorf("not installed:\n%s", s.kernel())
			}
			s.must("down", "--dry-run")
			if !strings.Contains(strings.ToLower(s.kernel()), test.table) {
				t.Error("a dry run removed the rules")
			}
			s.configure("")
			s.add(fmt.Sprintf("[firewall]\ntable = %q\nbackend = \"none\"\n", test.table))
			s.must("down")
			s.must("down")
			if left := strings.ToLower(s.kernel()); strings.Contains(left, test.table) {
				t.Errorf("left behind:\n%s", left)
			}
		})
	}
}

// TestRulesAreNotTakenFromARunningController, which would put them back.
func TestRulesAreNotTakenFromARunningController(t *testing.T) {
	s := newService(t)
	s.start()
	_, talk, err := s.firewall("down")
	if err == nil || !strings.Contains(talk, errRunning.Error()) || !strings.Contains(talk, "hint: stop") {
		t.Errorf("down beside a controller: %v, %s", err, talk)
	}
	s.live(s.cmd.Process.Pid)
	s.must("down")
	if left := s.kernel(); strings.Contains(left, "postern") {
		t.Errorf("left behind:\n%s", left)
	}
}

// TestTheBootsUnitIsDarkWithAnUnusableConfiguration: what it falls back on needs nothing
// that could be damaged, and lets nobody in; the way back does not need the file either.
func TestTheBootsUnitIsDarkWithAnUnusableConfiguration(t *testing.T) {
	s := newService(t)
	if err := os.WriteFile(s.config, []byte("name = \"gate.example\"\n[[keep]]\nsource = \"nowhere\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.firewall("up"); err == nil {
		t.Error("a broken configuration was taken")
	}
	s.boot()
	rules := s.kernel()
	if !strings.Contains(rules, "policy drop") || strings.Contains(rules, "keep") || strings.Contains(rules, "open port") {
		t.Errorf("what the unit falls back on:\n%s", rules)
	}
	s.must("down")
	if left := s.kernel(); strings.Contains(left, "postern") {
		t.Errorf("left behind:\n%s", left)
	}
}

// TestABootWithAFaultyConfigurationIsDarkInTheLastGoodOnesPlace: rules in another table
// would stay when the fault is mended, and keep everybody out; so would any, beside a host
// agent's, where there were to be none.
func TestABootWithAFaultyConfigurationIsDarkInTheLastGoodOnesPlace(t *testing.T) {
	s := newService(t)
	mistake := func() {
		s.add("[[keep]]\nsource = \"nowhere\"\n")
		s.boot()
	}
	s.add("[firewall]\ntable = \"gatehouse\"\n")
	s.boot()
	mistake()
	if rules := s.kernel(); !strings.Contains(rules, "gatehouse") || strings.Contains(rules, controller.DefaultTable) {
		t.Errorf("with another table:\n%s", rules)
	}
	s.must("down")
	if left := s.kernel(); strings.Contains(left, "gatehouse") {
		t.Errorf("left behind:\n%s", left)
	}
	s.configure("")
	s.add("[firewall]\nbackend = \"none\"\n")
	s.boot()
	mistake()
	if rules := s.kernel(); strings.Contains(rules, "policy drop") {
		t.Errorf("with a backend that is none:\n%s", rules)
	}
}

// TestBesideAHostAgentsRules the controller is unreachable with rules of its own, and says
// so; with the host's alone, as OPERATIONS.md has it, it is not.
func TestBesideAHostAgentsRules(t *testing.T) {
	const warning = "another packet filter stops"
	for _, test := range []struct {
		name, keep, own string
		warns           bool
	}{
		{"two tables", "", "", true},
		{"the host's without keep rules", "", "[firewall]\nbackend = \"none\"\n", true},
		{"the host's with keep rules", everybody, "[firewall]\nbackend = \"none\"\n", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newService(t)
			s.add(test.own)
			other, err := nft.New(nft.Config{NetNS: s.ns.FD()})
			if err != nil {
				t.Fatal(err)
			}
			defer other.Close()
			if err := other.Install(t.Context(), hostRules(t, test.keep)); err != nil {
				t.Fatal(err)
			}
			testkit.Cable(t, s.ns, "eth0", []string{"10.9.0.1/24", "fd00::1/64"}, testkit.Netns(t), "eth0", nil)
			s.start()
			s.live(s.cmd.Process.Pid)
			if got := strings.Contains(s.log.String(), warning); got != test.warns {
				t.Errorf("warned: %t, want %t\n%s", got, test.warns, &s.log)
			}
		})
	}
}

// TestRulesOfBeforeAreTold when the configuration leaves the ports to somebody else now.
func TestRulesOfBeforeAreTold(t *testing.T) {
	s := newService(t)
	s.must("up")
	s.add("[firewall]\nbackend = \"none\"\n")
	var got installation
	if err := json.Unmarshal([]byte(s.must("up", "--json")), &got); err != nil || got.Backend != "none" {
		t.Errorf("up: %+v, %v", got, err)
	}
	s.start()
	s.live(s.cmd.Process.Pid)
	if !strings.Contains(s.log.String(), "rules of before are still there") {
		t.Errorf("not told:\n%s", &s.log)
	}
}

// everybody is what OPERATIONS.md says for host.toml.
const everybody = `
[[keep]]
source = "0.0.0.0/0"
ports = ["udp/4040", "udp/4041"]

[[keep]]
source = "::/0"
ports = ["udp/4040", "udp/4041"]
`

func hostRules(t *testing.T, text string) firewall.Rules {
	t.Helper()
	var sections struct {
		Keep []config.Keep `toml:"keep"`
	}
	if err := config.Parse("host.toml", text, &sections); err != nil {
		t.Fatal(err)
	}
	keep, err := config.KeepRules(sections.Keep, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return firewall.Rules{Keep: keep}
}

// TestOperationsHasTheKeepRulesForAController that are tested here.
func TestOperationsHasTheKeepRulesForAController(t *testing.T) {
	text, err := os.ReadFile("../../docs/OPERATIONS.md")
	if err != nil || !strings.Contains(string(text), strings.TrimSpace(everybody)) {
		t.Errorf("%v: not there:\n%s", err, everybody)
	}
}
