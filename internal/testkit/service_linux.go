package testkit

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// Manager is a service manager's end of sd_notify.
type Manager struct {
	Socket string // for NOTIFY_SOCKET
	told   chan string
}

// NewManager listens at the path socket until the test ends.
func NewManager(t testing.TB, socket string) *Manager {
	t.Helper()
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	m := &Manager{Socket: socket, told: make(chan string, 1000)}
	go func() { // ends with the socket
		b := make([]byte, 4096)
		for {
			n, err := l.Read(b)
			if err != nil {
				return
			}
			m.told <- string(b[:n])
		}
	}()
	return m
}

// Hear waits until the manager is told something that begins with want, and returns it.
func (m *Manager) Hear(t testing.TB, want string) string {
	t.Helper()
	limit := time.After(20 * time.Second)
	for {
		select {
		case told := <-m.told:
			if strings.HasPrefix(told, want) {
				return told
			}
		case <-limit:
			t.Fatalf("the manager was not told %q", want)
		}
	}
}

// Unit returns the words behind a key of a systemd unit, those of all its lines.
func Unit(t testing.TB, path, key string) []string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var words []string
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, key+"="); ok {
			words = append(words, strings.Fields(value)...)
		}
	}
	if len(words) == 0 {
		t.Fatalf("%s has no %s", path, key)
	}
	return words
}

// Setpriv returns the beginning of a command line that runs the rest as a user in the
// group root, with only these capabilities, ambient ones: as User=,
// SupplementaryGroups=root, AmbientCapabilities= and CapabilityBoundingSet= of a unit do.
func Setpriv(user int, capabilities []string) []string {
	caps := "-all"
	for _, c := range capabilities {
		caps += ",+" + strings.ToLower(strings.TrimPrefix(c, "CAP_"))
	}
	id := fmt.Sprint(user)
	return []string{"setpriv", "--reuid", id, "--regid", id, "--groups", id + ",0", "--no-new-privs",
		"--inh-caps=" + caps, "--ambient-caps=" + caps, "--bounding-set=" + caps}
}
