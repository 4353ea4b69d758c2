package packages

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/postern-sdp/postern/internal/testkit"
)

const mirror = "http://deb.debian.org/debian"

// include is what a machine has besides what every Debian has: both firewalls' programs,
// and what they are started by.
var include = []string{"iptables", "nftables", "systemd-sysv"}

// machine is a freshly installed Debian in a folder, with a network namespace of its
// own: what a package's scripts do to the firewall stays there.
type machine struct {
	t    *testing.T
	root string
	ns   *testkit.Namespace
}

// base makes the folder that machines are copies of, once, and keeps it in the
// cache of the user who runs the tests.
var base = sync.OnceValues(func() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "", err
	}
	suite := regexp.MustCompile(`(?m)^VERSION_CODENAME=(\w+)$`).FindSubmatch(b)
	if suite == nil {
		return "", fmt.Errorf("not a Debian with a code name: %s", b)
	}
	dir := filepath.Join(cache, "postern-tests", "minbase-"+string(suite[1])+"+"+strings.Join(include, "+"))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return "", err
	}
	made, err := os.MkdirTemp(filepath.Dir(dir), "making-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(made)
	cmd := exec.Command("debootstrap", "--variant=minbase", "--include="+strings.Join(include, ","), string(suite[1]), filepath.Join(made, "root"), mirror)
	cmd.Env = append(os.Environ(), "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("debootstrap: %w: %s", err, out[max(0, len(out)-2000):])
	}
	for _, weight := range []string{"var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale", "usr/share/man"} {
		if err := os.RemoveAll(filepath.Join(made, "root", weight)); err != nil {
			return "", err
		}
	}
	if err := os.Rename(filepath.Join(made, "root"), dir); !errors.Is(err, fs.ErrExist) {
		return dir, err
	}
	return dir, nil // another run was quicker
})

func newMachine(t *testing.T) *machine {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs root, to install packages into a folder")
	}
	from, err := base()
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, root: filepath.Join(t.TempDir(), "root"), ns: testkit.Netns(t)}
	if out, err := exec.Command("cp", "-a", from, m.root).CombinedOutput(); err != nil {
		t.Fatalf("copy %s: %v: %s", from, err, out)
	}
	return m
}

// try runs a program on the machine, in process and mount namespaces of its own.
func (m *machine) try(name string, args ...string) (string, error) {
	m.t.Helper()
	const script = `mount -t proc proc "$0/proc" && exec chroot "$0" "$@"`
	cmd := exec.Command("unshare", append([]string{"--mount", "--pid", "--fork", "--kill-child", "--",
		"sh", "-c", script, m.root, name}, args...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8",
		"DEBIAN_FRONTEND=noninteractive"}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	var err error
	m.ns.Do(m.t, func() { err = cmd.Start() })
	if err == nil {
		err = cmd.Wait()
	}
	return out.String(), err
}

func (m *machine) run(name string, args ...string) string {
	m.t.Helper()
	out, err := m.try(name, args...)
	if err != nil {
		m.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

func (m *machine) path(path string) string { return filepath.Join(m.root, path) }

func (m *machine) write(path, text string, perm os.FileMode) {
	m.t.Helper()
	if err := os.MkdirAll(filepath.Dir(m.path(path)), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(m.path(path), []byte(text), perm); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Chmod(m.path(path), perm); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) read(path string) string {
	m.t.Helper()
	b, err := os.ReadFile(m.path(path))
	if err != nil {
		m.t.Fatal(err)
	}
	return string(b)
}

func (m *machine) has(path string) bool {
	_, err := os.Lstat(m.path(path))
	return err == nil
}

// record replaces a program by one that only notes how it was called.
func (m *machine) record(program string) {
	m.t.Helper()
	_ = os.Remove(m.path(program))
	m.write(program, "#!/bin/sh\necho \"$(basename \"$0\") $*\" >>/calls\n", 0o755)
}

// calls returns what was noted since the last time.
func (m *machine) calls() string {
	m.t.Helper()
	b, err := os.ReadFile(m.path("/calls"))
	if err == nil {
		err = os.Remove(m.path("/calls"))
	}
	if err != nil && !os.IsNotExist(err) {
		m.t.Fatal(err)
	}
	return string(b)
}

// carry copies packages onto the machine.
func (m *machine) carry(files []string) []string {
	m.t.Helper()
	var there []string
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			m.t.Fatal(err)
		}
		to := "/root/" + filepath.Base(f)
		m.write(to, string(b), 0o644)
		there = append(there, to)
	}
	return there
}
