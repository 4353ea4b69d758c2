package packages

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var (
	hostUnits = []string{
		"multi-user.target.wants/postern-host.service", "multi-user.target.wants/postern-host.path",
		"sysinit.target.wants/postern-host-firewall.service",
	}
	controllerUnits = []string{
		"multi-user.target.wants/postern-controller.service", "multi-user.target.wants/postern-controller.path",
		"sysinit.target.wants/postern-controller-firewall.service",
	}
)

func (m *machine) installed(version string) {
	m.t.Helper()
	for path, mode := range map[string]os.FileMode{
		"/usr/bin/postern": 0o755, "/usr/bin/postern-host": 0o755, "/usr/bin/postern-controller": 0o755,
		"/etc/postern/host.toml":                                    0o644,
		"/usr/lib/systemd/system/postern-host.service":              0o644,
		"/usr/lib/systemd/system/postern-host-firewall.service":     0o644,
		"/usr/lib/systemd/system/postern-controller.service":        0o644,
		"/usr/share/bash-completion/completions/postern":            0o644,
		"/usr/share/bash-completion/completions/postern-host":       0o644,
		"/usr/share/bash-completion/completions/postern-controller": 0o644,
		"/usr/share/man/man1/postern.1.gz":                          0o644,
		"/usr/share/man/man1/postern-connect.1.gz":                  0o644,
		"/usr/share/man/man8/postern-host.8.gz":                     0o644,
		"/usr/share/man/man8/postern-controller-token.8.gz":         0o644,
		"/usr/share/doc/postern-host/OPERATIONS.md":                 0o644,
		"/usr/share/doc/postern-host/copyright":                     0o644,
	} {
		info, err := os.Lstat(m.path(path))
		if err != nil {
			m.t.Error(err)
		} else if info.Mode() != mode || info.Size() == 0 {
			m.t.Errorf("%s: mode %v, %d bytes", path, info.Mode(), info.Size())
		}
	}
	for _, name := range []string{"postern-host", "postern"} {
		account := strings.Split(strings.TrimSpace(m.run("getent", "passwd", name)), ":")
		var uid int
		_, err := fmt.Sscan(account[2], &uid)
		if err != nil || uid == 0 || uid > 999 || account[6] != "/usr/sbin/nologin" {
			m.t.Errorf("account %v, %v", account, err)
		}
	}
	for _, link := range append(slices.Clone(hostUnits), controllerUnits...) {
		if !m.has("/etc/systemd/system/" + link) {
			m.t.Errorf("%s is not enabled", link)
		}
	}
	for _, program := range []string{"postern", "postern-host", "postern-controller"} {
		if got := m.run(program, "version"); !strings.Contains(got, "v"+version) {
			m.t.Errorf("%s version: %s", program, got)
		}
	}
	m.run("postern-host", "serve", "--check")
}

func TestTheDebianPackagesFromInstallToPurge(t *testing.T) {
	t.Parallel()
	first, second := build(t, "1.0.0", "deb"), build(t, "1.0.1", "deb")
	m := newMachine(t)
	m.run("dpkg", append([]string{"-i"}, m.carry(first)...)...)
	m.installed("1.0.0")
	if m.has("/var/lib/postern-host") || m.has("/var/lib/postern-controller") {
		t.Error("there is state before anybody enrolled")
	}
	m.run("/var/lib/dpkg/info/postern-host.postinst", "configure") // once more does no harm
	m.run("postern-controller", "init", "--name", "gate.example")
	if !strings.Contains(m.read("/etc/postern/controller.toml"), "gate.example") {
		t.Error("init wrote no configuration")
	}

	// The administrator makes it theirs.
	const mine = "log_level = \"debug\"\n"
	m.write("/etc/postern/host.toml", mine, 0o644)
	m.write("/var/lib/postern-host/identity.json", "{}", 0o600)
	m.run("env", "DPKG_MAINTSCRIPT_PACKAGE=postern-host", "deb-systemd-helper", "disable", "postern-host.path")

	t.Run("upgrade", func(t *testing.T) {
		m.record("/usr/bin/systemctl")
		m.record("/usr/bin/systemd-tmpfiles")
		m.write("/run/systemd/system/.here", "", 0o644)
		m.record("/usr/bin/postern-host") // the old one, which prerm would call
		m.run("dpkg", append([]string{"-i"}, m.carry(second)...)...)
		calls := m.calls()
		if strings.Contains(calls, "unprotect") || strings.Contains(calls, "stop") {
			t.Errorf("an upgrade leaves a gap:\n%s", calls)
		}
		for _, want := range []string{"systemctl daemon-reload\n", "systemctl restart postern-host.service\n",
			"systemctl restart postern-controller.service\n",
			"systemd-tmpfiles --create postern-host.conf\n"} {
			if !strings.Contains(calls, want) {
				t.Errorf("no %q in\n%s", want, calls)
			}
		}
		if got := m.read("/etc/postern/host.toml"); got != mine {
			t.Errorf("the administrator's file is now %q", got)
		}
		if m.has("/etc/systemd/system/multi-user.target.wants/postern-host.path") {
			t.Error("a unit that the administrator disabled is enabled again")
		}
		if !m.has("/etc/systemd/system/multi-user.target.wants/postern-host.service") {
			t.Error("a unit is not enabled any more")
		}
		if got := m.run("postern-host", "version"); !strings.Contains(got, "v1.0.1") {
			t.Errorf("version: %s", got)
		}
		if !m.has("/var/lib/postern-host/identity.json") || !m.has("/var/lib/postern-controller/controller.json") {
			t.Error("state is lost")
		}
	})

	t.Run("remove", func(t *testing.T) {
		m.record("/usr/bin/postern-host")
		out := m.run("dpkg", "-r", "postern", "postern-host", "postern-controller")
		calls := m.calls()
		stop, open := strings.Index(calls, "systemctl stop"), strings.Index(calls, "postern-host unprotect --yes\n")
		if open < 0 || stop < open {
			t.Errorf("the protection must go before the agent, and logins with it, do:\n%s", calls)
		}
		if !strings.Contains(out, "REMOVING THE PROTECTION") {
			t.Errorf("a removal without a word:\n%s", out)
		}
		if m.read("/etc/postern/host.toml") != mine || !m.has("/var/lib/postern-host/identity.json") {
			t.Error("a removal took configuration or state")
		}
	})

	t.Run("purge", func(t *testing.T) {
		m.run("dpkg", "-P", "postern", "postern-host", "postern-controller")
		if left := m.left(); left != "" {
			t.Errorf("left behind:\n%s", left)
		}
		if out, err := m.try("dpkg", "-s", "postern-host"); err == nil {
			t.Errorf("dpkg still knows it:\n%s", out)
		}
	})
}

// TestARemovalThatCannotOpenSaysHow is for whoever would otherwise find out from outside.
func TestARemovalThatCannotOpenSaysHow(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run("dpkg", append([]string{"-i"}, m.carry(build(t, "1.0.0", "deb"))...)...)
	for _, program := range []string{"postern-host", "postern-controller"} {
		m.write("/usr/bin/"+program, "#!/bin/sh\nexit 1\n", 0o755)
	}
	out := m.run("dpkg", "-r", "postern-host", "postern-controller")
	for _, want := range []string{"nft delete table inet postern\n", "nft delete table inet postern_controller\n",
		"iptables -t mangle -F POSTERN_CONTROLLER-$c;"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}

func TestTheRPMPackagesFromInstallToErase(t *testing.T) {
	t.Parallel()
	files := build(t, "1.0.0", "rpm")
	m := newMachine(t)
	// rpm runs outside, as the machine is a Debian: its scripts run inside.
	rpm := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("rpm", append([]string{"--root", m.root}, args...)...)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		var err error
		m.ns.Do(t, func() { err = cmd.Start() })
		if err == nil {
			err = cmd.Wait()
		}
		if err != nil {
			t.Fatalf("rpm %v: %v\n%s", args, err, out.String())
		}
		return out.String()
	}
	_ = os.Remove(m.path("/usr/bin/deb-systemd-helper")) // no rpm system has it
	m.record("/usr/bin/systemctl")
	if err := os.MkdirAll(m.path("/var/lib/rpm"), 0o755); err != nil {
		t.Fatal(err)
	}
	rpm("--initdb")
	rpm(append([]string{"-i", "--nodeps"}, files...)...)
	calls := m.calls()
	for _, unit := range append(slices.Clone(hostUnits), controllerUnits...) {
		if !strings.Contains(calls, filepath.Base(unit)) {
			t.Errorf("%s is not enabled:\n%s", unit, calls)
		}
	}
	m.run("getent", "passwd", "postern-host", "postern")
	if got := m.run("postern-host", "version"); !strings.Contains(got, "v1.0.0") {
		t.Errorf("version: %s", got)
	}
	if got := rpm("-qc", "postern-host"); strings.TrimSpace(got) != "/etc/postern/host.toml" {
		t.Errorf("configuration: %q", got)
	}
	if got := rpm("-ql", "postern-controller"); !strings.Contains(got, "/usr/lib/systemd/system/postern-controller.service") {
		t.Errorf("files: %s", got)
	}
	rpm(append([]string{"-U", "--nodeps", "--replacepkgs"}, files...)...)
	if calls := m.calls(); strings.Contains(calls, "unprotect") || strings.Contains(calls, "disable") {
		t.Errorf("an upgrade leaves a gap:\n%s", calls)
	}
	m.record("/usr/bin/postern-host")
	rpm("-e", "postern", "postern-host", "postern-controller")
	if calls := m.calls(); !strings.Contains(calls, "postern-host unprotect --yes\n") {
		t.Errorf("erasing did not take the protection away:\n%s", calls)
	}
	if m.has("/usr/bin/postern") {
		t.Error("a program was left behind")
	}
}
