//go:build linux

package notify_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-sdp/postern/firewall/notify"
	"github.com/postern-sdp/postern/internal/testkit"
)

// log is what a listener heard of.
type log struct {
	mu    sync.Mutex // guards what follows
	list  []notify.Change
	calls int
}

// has reports whether a change was heard of, whoever made it.
func (l *log) has(want notify.Change) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.list, func(c notify.Change) bool {
		c.By = 0
		return c == want
	})
}

func (l *log) called() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.calls
}

// listen hears of everything in a namespace until the end of the test.
func listen(t *testing.T, n *testkit.Namespace) *log {
	t.Helper()
	l, err := notify.Listen(n.FD())
	if err != nil {
		t.Fatal(err)
	}
	heard := &log{}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		err := l.Run(ctx, func(c notify.Change) bool {
			heard.mu.Lock()
			defer heard.mu.Unlock()
			heard.list = append(heard.list, c)
			return c.Table == "many" // the rest of the datagram is not looked at then
		}, func() {
			heard.mu.Lock()
			defer heard.mu.Unlock()
			heard.calls++
		})
		if err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
		l.Close()
	})
	i := 0
	testkit.Eventually(t, 10*time.Second, "it listens", func() bool {
		i++
		name := fmt.Sprintf("listening%d", i)
		n.Run(t, "nft", "add", "table", "ip6", name)
		return heard.has(notify.Change{Family: 10, Table: name}) // NFPROTO_IPV6
	})
	return heard
}

func TestWhatIsTakenAwayOrAlteredIsHeardOf(t *testing.T) {
	testkit.RequireRoot(t)
	testkit.NoLeak(t)
	n := testkit.Netns(t)
	heard := listen(t, n)
	const inet, ip = 1, 2 // NFPROTO_INET, NFPROTO_IPV4
	for _, step := range []struct {
		command string
		want    notify.Change
	}{
		{"add table inet a; add chain inet a c { type filter hook input priority 0; }; add rule inet a c accept",
			notify.Change{Family: inet, Table: "a"}},
		{"flush chain inet a c", notify.Change{Family: inet, Table: "a", Chain: "c", Deleted: true}},
		{"add chain inet a c { policy drop; }", notify.Change{Family: inet, Table: "a", Chain: "c"}},
		{"delete chain inet a c", notify.Change{Family: inet, Table: "a", Chain: "c", Deleted: true}},
		{"add table ip b; flush ruleset", notify.Change{Family: ip, Table: "b", Deleted: true}},
	} {
		n.Run(t, "nft", step.command)
		testkit.Eventually(t, 10*time.Second, step.command, func() bool { return heard.has(step.want) })
	}
}

// TestManyChangesAreOneCall: a program that never stops changing rules costs few
// wake-ups.
func TestManyChangesAreOneCall(t *testing.T) {
	testkit.RequireRoot(t)
	n := testkit.Netns(t)
	heard := listen(t, n)
	const chains = 5000
	var text strings.Builder
	for i := range chains {
		fmt.Fprintf(&text, "add chain ip many c%d\n", i)
	}
	path := filepath.Join(t.TempDir(), "many")
	if err := os.WriteFile(path, []byte("add table ip many\n"+text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	n.Run(t, "nft", "-f", path)
	n.Run(t, "nft", "add", "table", "ip", "end")
	end := notify.Change{Family: 2, Table: "end"} // NFPROTO_IPV4
	testkit.Eventually(t, 10*time.Second, "all is heard of", func() bool { return heard.has(end) })
	if calls := heard.called(); calls == 0 || calls > 20 {
		t.Errorf("%d calls for one change of %d chains", calls, chains)
	}
}
