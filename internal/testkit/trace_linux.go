package testkit

import (
	"bufio"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Strace returns the beginning of a command line that runs the rest and writes its
// system calls to a file, for [CheckTrace].
func Strace(file string) []string {
	return []string{"strace", "-f", "-qqq", "-o", file, "-e", "signal=none"}
}

// call is one line of a trace.
var call = regexp.MustCompile(`^\d+ +([a-z0-9_]+)\((.*)`)

// CheckTrace fails the test for each system call after the execution of program that
// a systemd unit's sandbox would refuse: by SystemCallFilter as the systemd of this
// machine knows its sets, RestrictAddressFamilies, RestrictNamespaces and
// MemoryDenyWriteExecute.
func CheckTrace(t testing.TB, file, program, unit string) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	allowed, families := allowedCalls(t, unit), Unit(t, unit, "RestrictAddressFamilies")
	refused := make(map[string]bool)
	seen := make(map[string]bool)
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for began := false; lines.Scan(); {
		m := call.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		name, arguments := m[1], m[2]
		if !began {
			began = name == "execve" && strings.HasPrefix(arguments, `"`+program+`"`)
			continue
		}
		seen[name] = true
		family, _, _ := strings.Cut(arguments, ",")
		switch {
		case !allowed[name]:
			refused[name] = true
		case name == "socket" && !slices.Contains(families, family):
			refused["socket "+family] = true
		case name == "setns", name == "unshare", strings.HasPrefix(name, "clone") && strings.Contains(arguments, "CLONE_NEW"):
			refused[name] = true
		case name == "mprotect" && strings.Contains(arguments, "PROT_EXEC"),
			name == "mmap" && strings.Contains(arguments, "PROT_WRITE|PROT_EXEC"):
			refused[name+" of memory to execute"] = true
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	if len(seen) < 20 || len(allowed) < 200 || !seen["socket"] {
		t.Errorf("%d different calls seen, %d allowed: that cannot be all", len(seen), len(allowed))
	}
	for _, what := range slices.Sorted(maps.Keys(refused)) {
		t.Errorf("%s: %s, which %s forbids", program, what, unit)
	}
}

// allowedCalls resolves a unit's filter. Those of @default are always let through.
func allowedCalls(t testing.TB, unit string) map[string]bool {
	t.Helper()
	allowed := make(map[string]bool)
	permit := true
	for _, word := range Unit(t, unit, "SystemCallFilter") {
		if name, forbids := strings.CutPrefix(word, "~"); forbids {
			permit, word = false, name
		}
		for _, name := range resolveCalls(t, word) {
			allowed[name] = permit
		}
	}
	for _, name := range resolveCalls(t, "@default") {
		allowed[name] = true
	}
	maps.DeleteFunc(allowed, func(_ string, ok bool) bool { return !ok })
	return allowed
}

func resolveCalls(t testing.TB, set string) []string {
	t.Helper()
	if !strings.HasPrefix(set, "@") {
		return []string{set}
	}
	out, err := exec.Command("systemd-analyze", "syscall-filter", "--no-pager", set).Output()
	if err != nil {
		t.Fatalf("systemd-analyze syscall-filter %s: %v", set, err)
	}
	var names []string
	text := regexp.MustCompile(`(?m)#.*$`).ReplaceAllString(string(out), "")
	for _, word := range strings.Fields(text)[1:] { // after the set's own name
		names = append(names, resolveCalls(t, word)...)
	}
	return names
}

// Sandbox returns the beginning of a command line that runs the rest in the file
// system of a unit with ProtectSystem=strict, ProtectHome=, ProtectProc=invisible,
// ProtectKernelTunables= and PrivateDevices=: by hand, as there is no systemd to do it.
// Only folder can be written.
func Sandbox(folder string) []string {
	const script = `set -e
mount --make-rprivate /
mount --bind "$0" "$0"
mount -t proc -o hidepid=invisible proc /proc
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount -t tmpfs tmpfs /dev
mknod -m 666 /dev/null c 1 3
mknod -m 666 /dev/zero c 1 5
mknod -m 666 /dev/random c 1 8
mknod -m 666 /dev/urandom c 1 9
mount -o remount,bind,ro /dev
for hidden in /home /root /run/user; do
	[ ! -d "$hidden" ] || mount -t tmpfs -o mode=0,ro tmpfs "$hidden"
done
mount -o remount,bind,ro /
exec "$@"`
	return []string{"unshare", "--mount", "--", "sh", "-c", script, folder}
}
