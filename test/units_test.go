package test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const unitFolder = "../configs/systemd"

// analyze runs systemd-analyze on the units, which are there under the names and
// with the programs that the packages install.
func analyze(t *testing.T, root string, args ...string) string {
	t.Helper()
	cmd := exec.Command("systemd-analyze", append(args, "--no-pager")...)
	cmd.Env = append(os.Environ(), "SYSTEMD_UNIT_PATH="+filepath.Join(root, "units")+":")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("systemd-analyze %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// units copies the units to a folder, with programs that are on this machine.
func units(t *testing.T) (root string, paths []string) {
	t.Helper()
	root = t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "units"), 0o755); err != nil {
		t.Fatal(err)
	}
	found, err := filepath.Glob(filepath.Join(unitFolder, "*.*"))
	if err != nil || len(found) < 5 {
		t.Fatalf("found %v, %v", found, err)
	}
	for _, path := range found {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.NewReplacer("=/usr/bin/postern-host", "=/bin/true",
			"=/usr/bin/postern-controller", "=/bin/true",
			"file:///usr/share/doc/", "https://example.org/").Replace(string(b))
		to := filepath.Join(root, "units", filepath.Base(path))
		if err := os.WriteFile(to, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, to)
	}
	return root, paths
}

// TestTheUnitsAreExposedToLittle is the promise that a daemon which is taken over
// can do little else: `systemd-analyze security` of at most 2.5.
func TestTheUnitsAreExposedToLittle(t *testing.T) {
	_, paths := units(t)
	for _, path := range paths {
		if !strings.HasSuffix(path, ".service") {
			continue
		}
		out := analyze(t, t.TempDir(), "security", "--offline=yes", "--threshold=25", path)
		if !strings.Contains(out, "Overall exposure level") {
			t.Errorf("%s: %s", path, out)
		}
	}
}

// TestTheUnitsAreUnderstood fails for a key that systemd does not know, a value it
// ignores, and an order of starting that goes in circles.
func TestTheUnitsAreUnderstood(t *testing.T) {
	root, paths := units(t)
	out := analyze(t, root, append([]string{"verify", "--man=no"}, paths...)...)
	if strings.TrimSpace(out) != "" {
		t.Errorf("systemd-analyze verify says\n%s", out)
	}
}

// others are units that the boot's has to do with, as far as their order goes: those of
// Debian 12, and, where theirs differ, of RHEL 9.
var others = map[string]string{
	"nftables.service": "DefaultDependencies=no\nWants=network-pre.target\nBefore=network-pre.target shutdown.target",
	"ufw.service": "DefaultDependencies=no\nBefore=network-pre.target\nWants=network-pre.target local-fs.target\n" +
		"After=local-fs.target",
	"netfilter-persistent.service": "DefaultDependencies=no\nWants=network-pre.target\n" +
		"Before=network-pre.target shutdown.target\nAfter=systemd-modules-load.service local-fs.target",
	"firewalld.service": "Before=network-pre.target\nWants=network-pre.target\nAfter=dbus.service polkit.service",
	"cloud-init-local.service": "DefaultDependencies=no\nWants=network-pre.target\nAfter=systemd-remount-fs.service\n" +
		"Before=NetworkManager.service network-pre.target shutdown.target",
}

// TestTheBootsOrderGoesInNoCircle with other filters and cloud-init: systemd would leave
// one of them out, perhaps ours.
func TestTheBootsOrderGoesInNoCircle(t *testing.T) {
	for name, debian := range map[string]bool{"Debian": true, "RHEL": false} {
		t.Run(name, func(t *testing.T) {
			root, _ := units(t)
			write := func(name, text string) {
				t.Helper()
				path := filepath.Join(root, "units", name)
				if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
					t.Fatal(err)
				}
			}
			wants := "[Unit]\nWants=multi-user.target postern-host-firewall.service postern-host.service " +
				"postern-controller-firewall.service postern-controller.service"
			for unit, text := range others {
				if unit == "cloud-init-local.service" && debian {
					text += "\nBefore=sysinit.target"
				}
				write(unit, "[Unit]\n"+text+"\n[Service]\nType=oneshot\nExecStart=/bin/true\n")
				wants += " " + unit
			}
			if !debian {
				for _, who := range []string{"host", "controller"} {
					b, err := os.ReadFile("../configs/packages/" + who + "-firewalld.conf")
					if err != nil {
						t.Fatal(err)
					}
					write("postern-"+who+"-firewall.service.d/firewalld.conf", string(b))
				}
			}
			write("boot.target", wants)
			if out := analyze(t, root, "verify", "--man=no", filepath.Join(root, "units", "boot.target")); strings.Contains(out, "cycle") {
				t.Errorf("systemd-analyze verify says\n%s", out)
			}
		})
	}
	boot := keys(t, "postern-host-firewall.service")
	for _, unit := range []string{"nftables.service", "ufw.service", "netfilter-persistent.service"} {
		if !strings.Contains(boot["After"], unit) {
			t.Errorf("%s may flush our rules", unit)
		}
	}
	if !strings.Contains(boot["Before"], "cloud-init-local.service") {
		t.Error("cloud-init brings a network up that nothing guards")
	}
}

// TestTheBootsLastResortHasTheTimeItNeeds: a first attempt that hangs is ended well before
// systemd ends the unit.
func TestTheBootsLastResortHasTheTimeItNeeds(t *testing.T) {
	for _, name := range []string{"postern-host", "postern-controller"} {
		boot := keys(t, name+"-firewall.service")
		var grace, first, all int
		_, line, _ := strings.Cut(boot["ExecStart"], "'timeout ")
		if _, err := fmt.Sscanf(line, "-k %d %d /usr/bin/"+name+" firewall up ||", &grace, &first); err != nil {
			t.Fatalf("%v: %s", err, boot["ExecStart"])
		}
		if _, err := fmt.Sscan(boot["TimeoutStartSec"], &all); err != nil || 2*(grace+first) > all {
			t.Errorf("%s: of %d s the first attempt has %d+%d, %v", name, all, first, grace, err)
		}
	}
}

// TestTheUnitsAgree keeps what belongs together in step: one user, one state
// folder, one sandbox.
func TestTheUnitsAgree(t *testing.T) {
	for _, name := range []string{"postern-host", "postern-controller"} {
		daemon, boot := keys(t, name+".service"), keys(t, name+"-firewall.service")
		for _, key := range []string{"User", "Group", "StateDirectory", "StateDirectoryMode", "ProtectSystem",
			"SystemCallFilter", "NoNewPrivileges"} {
			if daemon[key] == "" || daemon[key] != boot[key] {
				t.Errorf("%s of %s is %q for the daemon and %q for the firewall", key, name, daemon[key], boot[key])
			}
		}
	}
	agent := keys(t, "postern-host.service")
	if agent["ConditionPathExists"] != "/var/lib/postern-host/identity.json" ||
		keys(t, "postern-host.path")["PathChanged"] != agent["ConditionPathExists"] {
		t.Error("the agent does not wait for its identity")
	}
	controller := keys(t, "postern-controller.service")
	if controller["ConditionPathExists"] != "/var/lib/postern-controller/controller.json" ||
		keys(t, "postern-controller.path")["PathChanged"] != controller["ConditionPathExists"] {
		t.Error("the controller does not wait until it is made")
	}
	boot := keys(t, "postern-controller-firewall.service")["ConditionPathExists"]
	enabled := "/etc/systemd/system/" + controller["WantedBy"] + ".wants/postern-controller.service"
	if boot != controller["ConditionPathExists"]+" "+enabled {
		t.Errorf("the boot's rules are there when %s", boot)
	}
	order := keys(t, "postern-controller-firewall.service")
	if !strings.Contains(order["Before"], "cloud-init-local.service") || strings.Contains(order["After"], "firewalld") {
		t.Errorf("after %s, before %s: cloud-init's network is not guarded", order["After"], order["Before"])
	}
}

// keys returns a unit's keys; lines of the same key are joined.
func keys(t *testing.T, file string) map[string]string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(unitFolder, file))
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]string)
	for line := range strings.Lines(string(b)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(key, "#") {
			all[key] = strings.TrimSpace(all[key] + " " + value)
		}
	}
	return all
}
