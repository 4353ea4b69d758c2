package service

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postern-sdp/postern/internal/testkit"
)

// userManager starts systemd's real user manager in namespaces of its own, with its
// configuration in the folder that it returns, until the test ends.
func userManager(t *testing.T) (config string) {
	t.Helper()
	testkit.RequireRoot(t)
	dir, err := os.MkdirTemp("", "sd-") // a socket's path has to be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	config = filepath.Join(dir, "config")
	for _, name := range []string{config, filepath.Join(dir, "run")} {
		if err := os.Mkdir(name, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("HOME", dir)
	t.Setenv("XDG_CONFIG_HOME", config)
	t.Setenv("XDG_RUNTIME_DIR", filepath.Join(dir, "run"))
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", "")
	// It wants a machine that systemd runs, and control groups of version 2.
	script := `set -e
mkdir -p /run/systemd; mount -t tmpfs none /run/systemd; mkdir /run/systemd/system
umount -l /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup
exec /lib/systemd/systemd --user --log-target=console --log-level=warning`
	cmd := exec.Command("unshare", "--mount", "--cgroup", "sh", "-c", script)
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		kill := time.AfterFunc(10*time.Second, func() { cmd.Process.Kill() })
		cmd.Process.Signal(syscall.SIGTERM) // it stops its units and leaves
		cmd.Wait()
		kill.Stop()
		if said, _ := os.ReadFile(log.Name()); t.Failed() {
			t.Logf("systemd said:\n%s", said)
		}
	})
	testkit.Eventually(t, 20*time.Second, "the user manager answers", func() bool {
		return exec.Command("systemctl", "--user", "list-units").Run() == nil
	})
	return config
}

// recorder is a program that writes its arguments down and stays until it is ended.
func recorder(t *testing.T, dir string) (program string, runs func() [][]string) {
	t.Helper()
	dir = filepath.Join(dir, "Jo & co 50%h $HOME;#")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	program = filepath.Join(dir, "postern program")
	told := filepath.Join(filepath.Dir(dir), "told")
	script := fmt.Sprintf("#!/bin/sh\n{ printf '%%s\\0' \"$@\"; echo; } >>'%s'\nexec sleep 1000\n", told)
	if err := os.WriteFile(program, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return program, func() (all [][]string) {
		text, _ := os.ReadFile(told)
		for line := range strings.Lines(string(text)) {
			line, whole := strings.CutSuffix(line, "\x00\n")
			if whole {
				all = append(all, strings.Split(line, "\x00"))
			}
		}
		return all
	}
}

func TestSystemdRunsWhatIsInstalledUntilItIsNot(t *testing.T) {
	config := userManager(t)
	s, err := newService("linux", "", config, "")
	if err != nil {
		t.Fatal(err)
	}
	is := func(installed, running bool) {
		t.Helper()
		state, err := s.Status(t.Context())
		if err != nil || state.Installed != installed || state.Running != running {
			t.Errorf("got %+v, %v; want installed %v, running %v", state, err, installed, running)
		}
	}
	do := func(name string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	is(false, false)
	for name, err := range map[string]error{
		"start": s.Start(t.Context()), "stop": s.Stop(t.Context()), "uninstall": s.Uninstall(t.Context()),
	} {
		if !errors.Is(err, ErrNotInstalled) {
			t.Errorf("%s: %v", name, err)
		}
	}
	program, runs := recorder(t, filepath.Dir(config))
	spec := Spec{Program: program, Args: hard.Args}
	arrived := func(n int) {
		t.Helper()
		testkit.Eventually(t, 10*time.Second, "the program runs", func() bool { return len(runs()) >= n })
		if all := runs(); len(all) != n || !slices.Equal(all[n-1], hard.Args) {
			t.Errorf("run %d: started with %q, want %q", n, all, hard.Args)
		}
	}
	do("install", s.Install(t.Context(), spec))
	arrived(1)
	is(true, true)
	wanted := filepath.Join(config, "systemd", "user", "default.target.wants", unitName)
	if !exists(wanted) {
		t.Error("the next login would not start it")
	}
	do("start again", s.Start(t.Context()))
	do("install again", s.Install(t.Context(), spec))
	arrived(2)
	do("stop", s.Stop(t.Context()))
	is(true, false)
	do("stop again", s.Stop(t.Context()))
	do("start", s.Start(t.Context()))
	arrived(3)
	is(true, true)
	do("uninstall", s.Uninstall(t.Context()))
	is(false, false)
	if exists(wanted) || exists(s.state().File) {
		t.Error("uninstalled, and its files are there")
	}
	out, _ := exec.Command("systemctl", "--user", "is-active", unitName).Output()
	if got := strings.TrimSpace(string(out)); got != "inactive" {
		t.Errorf("uninstalled, and it is %s", got)
	}
}

func TestAnInstallationThatFailsLeavesNothing(t *testing.T) {
	config := userManager(t)
	s, err := newService("linux", "", config, "")
	if err != nil {
		t.Fatal(err)
	}
	// A folder in the place of the link that enabling makes.
	wants := filepath.Join(config, "systemd", "user", "default.target.wants")
	if err := os.MkdirAll(filepath.Dir(wants), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(wants, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Install(t.Context(), Spec{Program: "/bin/sleep", Args: []string{"1000"}}); err == nil {
		t.Fatal("installed")
	}
	if exists(s.state().File) {
		t.Error("the unit is there")
	}
	if out, _ := exec.Command("systemctl", "--user", "is-active", unitName).Output(); string(out) == "active\n" {
		t.Error("it runs")
	}
}

func TestSystemdFindsNoFaultWithTheUnits(t *testing.T) {
	dir := t.TempDir()
	program, _ := recorder(t, dir)
	for name, text := range map[string]string{
		"packaged": unitFor(t, Spec{Program: "/bin/sleep", Args: []string{"up"}}, "%E/postern"),
		"hard":     unitFor(t, Spec{Program: program, Args: hard.Args}, ""),
	} {
		path := filepath.Join(dir, name+".service")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("systemd-analyze", "verify", "--user", "--man=no", path)
		cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+dir)
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: %v: %s\n%s", name, err, out, text)
		}
	}
}

func unitFor(t *testing.T, spec Spec, condition string) string {
	t.Helper()
	text, err := Unit(spec, condition)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// sandboxed is what the test binary is called with to be the program in the sandbox.
const sandboxed = "in-the-sandbox"

// The sandbox must leave what the client needs. This test's binary is the program: it
// uses the network as the client does, and the file it writes says how that went.
func TestTheSandboxLeavesWhatTheClientNeeds(t *testing.T) {
	if flag.Arg(0) == sandboxed {
		said := "all of it"
		if err := useNetwork(); err != nil {
			said = err.Error()
		}
		os.WriteFile(flag.Arg(1)+".new", []byte(said), 0o644)
		os.Rename(flag.Arg(1)+".new", flag.Arg(1))
		return
	}
	config := userManager(t)
	s, err := newService("linux", "", config, "")
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(config, "said")
	if err := s.Install(t.Context(), Spec{
		Program: self, Args: []string{"-test.run=^" + t.Name() + "$", sandboxed, file},
	}); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 20*time.Second, "the program ends", func() bool { return exists(file) })
	said, err := os.ReadFile(file)
	if err != nil || string(said) != "all of it" {
		t.Errorf("%s, %v", said, err)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("what it writes has mode %v, %v: others may read it", info.Mode(), err)
	}
}

// useNetwork does what the client does, and fails when more is allowed than that.
func useNetwork() error {
	udp, err := net.ListenUDP("udp", nil)
	if err != nil {
		return err
	}
	defer udp.Close()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer tcp.Close()
	conn, err := net.Dial("tcp", tcp.Addr().String())
	if err != nil {
		return err
	}
	conn.Close()
	if _, err := net.Interfaces(); err != nil { // over netlink
		return err
	}
	if err := exec.Command("true").Run(); err != nil {
		return fmt.Errorf("start a program: %w", err)
	}
	if fd, err := syscall.Socket(syscall.AF_PACKET, syscall.SOCK_RAW, 0); err == nil {
		syscall.Close(fd)
		return errors.New("it may listen to all packets")
	}
	elsewhere := exec.Command("true")
	elsewhere.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if err := elsewhere.Run(); err == nil {
		return errors.New("it may make namespaces")
	}
	return nil
}
