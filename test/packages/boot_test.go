package packages

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postern-sdp/postern/internal/testkit"
)

// becomeMachine makes a folder the root of these namespaces, and systemd its first
// process. What could reach the real machine is out of its sight: settings of the kernel
// are read-only, its modules, clock and hardware need capabilities that it has not.
const becomeMachine = `set -e
mount --bind "$0" "$0"
cd "$0"
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs tmpfs tmp
for device in null zero full random urandom tty; do
	touch "run/$device"
	mount --bind "/dev/$device" "run/$device"
done
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do
	touch "dev/$device"
	mount --move "run/$device" "dev/$device"
	rm "run/$device"
done
mkdir dev/pts dev/shm run/before
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
pivot_root . run/before
umount -l run/before
exec setpriv --bounding-set=-sys_module,-sys_time,-sys_rawio,-sys_boot,-syslog,-mac_admin,-mac_override \
	/lib/systemd/systemd --system`

// booted is a machine on which systemd runs.
type booted struct {
	*machine
	first string // number of systemd's process, as it is seen from here
	off   func()
}

// boot starts systemd on the machine, whose kernel has no rules yet, and waits until it
// has nothing more to start.
func (m *machine) boot() *booted {
	m.t.Helper()
	m.ns.Run(m.t, "nft", "flush", "ruleset")
	group, fd := m.cgroup()
	cmd := exec.Command("unshare", "--mount", "--pid", "--fork", "--kill-child", "--cgroup", "--uts", "--ipc", "--",
		"sh", "-c", becomeMachine, m.root)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "container=test"}
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: fd, Pdeathsig: syscall.SIGKILL}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	var err error
	m.ns.Do(m.t, func() { err = cmd.Start() })
	if err != nil {
		m.t.Fatal(err)
	}
	b := &booted{machine: m}
	done := make(chan struct{})
	go func() { // ends with the process
		_ = cmd.Wait()
		close(done)
	}()
	b.off = func() {
		_ = cmd.Process.Kill()
		<-done
		dissolve(m.t, group)
	}
	m.t.Cleanup(b.off)
	testkit.Eventually(m.t, patience, "systemd to be there", func() bool {
		select {
		case <-done:
			m.t.Fatalf("systemd does not start: %s", out.String())
		default:
		}
		child, err := exec.Command("pgrep", "-P", strconv.Itoa(cmd.Process.Pid), "systemd").Output()
		b.first = strings.TrimSpace(string(child))
		return err == nil
	})
	testkit.Eventually(m.t, 3*patience, "the machine to be up", func() bool {
		state, _ := b.inside("systemctl", "is-system-running")
		return slices.Contains([]string{"running", "degraded"}, strings.TrimSpace(state))
	})
	return b
}

// cgroup makes a control group for a machine. Where there can be none, as in a container,
// no systemd can run.
func (m *machine) cgroup() (path string, fd int) {
	m.t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		m.t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if len(fields) < 3 || fields[2] != "cgroup2" {
			continue
		}
		path, err := os.MkdirTemp(fields[1], "postern-test-")
		if err != nil {
			m.t.Fatalf("systemd needs a control group of its own: %v", err)
		}
		f, err := os.Open(path)
		if err != nil {
			m.t.Fatal(err)
		}
		m.t.Cleanup(func() { f.Close() })
		return path, int(f.Fd())
	}
	m.t.Fatal("systemd needs cgroup2, and it is mounted nowhere here")
	return "", 0
}

// dissolve removes a control group, which is empty in a moment.
func dissolve(t *testing.T, path string) {
	var all []string
	_ = filepath.WalkDir(path, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			all = append(all, path)
		}
		return nil
	})
	slices.Reverse(all)
	for _, dir := range all {
		testkit.Eventually(t, patience, "the control group to be empty", func() bool {
			err := os.Remove(dir)
			return err == nil || errors.Is(err, fs.ErrNotExist)
		})
	}
}

// inside runs a program on the booted machine.
func (b *booted) inside(name string, args ...string) (string, error) {
	b.t.Helper()
	cmd := exec.Command("nsenter", append([]string{"--target", b.first, "--mount", "--pid", "--net", "--uts", "--ipc",
		"--root", "--wd=/", "--", name}, args...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8",
		"DEBIAN_FRONTEND=noninteractive"}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (b *booted) must(name string, args ...string) string {
	b.t.Helper()
	out, err := b.inside(name, args...)
	if err != nil {
		b.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(out)
}

// show returns a property of a unit.
func (b *booted) show(unit, property string) string {
	b.t.Helper()
	return b.must("systemctl", "show", unit, "--property", property, "--value")
}

// becomes waits until a unit is in that state.
func (b *booted) becomes(unit, state string) {
	b.t.Helper()
	deadline := time.Now().Add(3 * patience)
	for b.show(unit, "ActiveState") != state {
		if time.Now().After(deadline) {
			log, _ := b.inside("journalctl", "--no-pager", "--lines=30", "--unit", unit)
			b.t.Fatalf("%s does not become %s but is %s\n%s", unit, state, b.show(unit, "ActiveState"), log)
		}
	}
}

// when is the time of an event of a unit, counted from the machine's boot.
func (b *booted) when(unit, event string) int {
	b.t.Helper()
	n, err := strconv.Atoi(b.show(unit, event+"TimestampMonotonic"))
	if err != nil || n == 0 {
		b.t.Fatalf("%s has no %s: %v", unit, event, err)
	}
	return n
}

// aheadOfTheNetwork checks that a unit had done its work before the network was begun.
func (b *booted) aheadOfTheNetwork(unit string) {
	b.t.Helper()
	if result := b.show(unit, "Result"); result != "success" {
		b.t.Errorf("%s: %s", unit, result)
	}
	if rules, network := b.when(unit, "ExecMainExit"), b.when("network-pre.target", "ActiveEnter"); rules > network {
		b.t.Errorf("%s ended %d µs after the network was begun", unit, rules-network)
	}
}

// quick are the times of the agent's unit, shorter than they are shipped.
const quick = "[Service]\nWatchdogSec=3\nTimeoutStopSec=2\n"

// TestAProtectedHostFromBootToRemoval under a real systemd, beside its own controller: the
// rules come before the network, enrolling starts the agent, the watchdog finds one that
// hangs, and a removal ends all of it.
func TestAProtectedHostFromBootToRemoval(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.run("dpkg", append([]string{"-i"}, m.carry(build(t, "1.0.0", "deb"))...)...)
	m.run("postern-controller", "init", "--name", "gate.example", "--advertise", own+":4040")
	config := m.read("/etc/postern/controller.toml") + "\n[firewall]\nbackend = \"none\"\n" // the host's rules guard both
	m.write("/etc/postern/controller.toml", config, 0o644)
	m.write("/etc/systemd/system/postern-host.service.d/quick.conf", quick, 0o644)
	m.run("postern-host", "protect", "--now", "--yes")
	out := m.visit()

	b := m.boot()
	b.aheadOfTheNetwork("postern-host-firewall.service")
	if out.sees(silence) {
		t.Error("the machine is not protected after its boot")
	}
	b.becomes("postern-controller.service", "active")
	b.becomes("postern-host.service", "inactive")

	b.must("sh", "-c", "umask 77; postern-controller token create --role host --name web >/root/token")
	b.must("postern-host", "enroll", "@/root/token")
	b.becomes("postern-host.service", "active")

	pid := b.show("postern-host.service", "MainPID")
	b.must("systemctl", "kill", "--signal=SIGSTOP", "postern-host.service")
	testkit.Eventually(t, 3*patience, "the watchdog to have another agent started", func() bool {
		next := b.show("postern-host.service", "MainPID")
		return next != pid && next != "0" && b.show("postern-host.service", "ActiveState") == "active"
	})

	said := b.must("dpkg", "-r", "postern-host", "postern-controller")
	if !out.sees(patience) {
		t.Errorf("after the removal nothing answers:\n%s", said)
	}
	if rules := m.kernel(); strings.Contains(rules, "postern") {
		t.Errorf("left in the kernel:\n%s", rules)
	}
	if units := b.must("systemctl", "list-units", "--no-legend", "--state=active", "postern*"); units != "" {
		t.Errorf("still there:\n%s", units)
	}
}

// TestAControllersMachineIsDarkFromBootOn, whether its controller can start or not, unless
// it was taken out of use.
func TestAControllersMachineIsDarkFromBootOn(t *testing.T) {
	t.Parallel()
	const firewall = "postern-controller-firewall.service"
	m := newMachine(t)
	m.run("dpkg", append([]string{"-i"}, m.carry(build(t, "1.0.0", "deb"))...)...)
	out := m.visit()
	m.run("postern-controller", "init", "--name", "gate.example")
	for _, test := range []struct{ name, config, controller string }{
		{"it starts", "", "active"},
		{"its configuration cannot be used", "[[keep]]\nsource = \"nowhere\"\n", "activating"},
	} {
		m.write("/etc/postern/controller.toml", fmt.Sprintf("name = %q\n%s", "gate.example", test.config), 0o644)
		b := m.boot()
		b.aheadOfTheNetwork(firewall)
		if out.sees(silence) {
			t.Errorf("%s: a stranger sees what listens", test.name)
		}
		b.becomes("postern-controller.service", test.controller)
		b.off()
	}
	m.run("systemctl", "disable", "postern-controller.service")
	b := m.boot()
	if !out.sees(patience) {
		t.Errorf("out of use, and dark: %s\n%s", b.show(firewall, "ConditionResult"), m.kernel())
	}
}
