package bench

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/postern-sdp/postern/test/lab"
)

// sshRTT is the round trip to every machine that BenchmarkSSH talks to.
const sshRTT = 20 * time.Millisecond

// BenchmarkSSH is what `ssh host true` costs as a process on a line that takes its
// time: plain; through a bare TCP connection as its ProxyCommand; and through Postern,
// with a warm agent, with a session of its own, and with an agent to be started first.
// Rounds take turns, so that noise meets all alike. What Postern adds is what it
// costs beyond the bare connection: plain ssh leaves small packets to Nagle's algorithm
// (RFC 896) and waits for acknowledgements that the other end delays.
func BenchmarkSSH(b *testing.B) {
	l := newLab(b)
	for _, machine := range []string{"host", "controller", "stranger"} {
		if err := l.LongLine(machine, sshRTT/2, 0); err != nil {
			b.Fatal(err)
		}
	}
	open, err := l.Start("stranger", "sshd", "-D", "-e", "-f", filepath.Join(l.Dir, "sshd", "sshd_config"))
	if err != nil {
		b.Fatal(err)
	}
	pipe := filepath.Join(b.TempDir(), "pipe")
	if out, err := exec.CommandContext(b.Context(), "go", "build", "-o", pipe, "./testdata/pipe").CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	plain := fmt.Sprintf("%s:22", lab.StrangerV4)
	agent := fmt.Sprintf("env -u POSTERN_NO_AGENT XDG_RUNTIME_DIR=%s XDG_CONFIG_HOME=%s %s/postern", b.TempDir(),
		l.ConfigHome("client"), l.Bin)
	alone := fmt.Sprintf("env XDG_CONFIG_HOME=%s %s/postern", l.ConfigHome("client"), l.Bin)
	ways := []struct{ name, proxy, before string }{
		{"plain", "none", ""},
		{"pipe", pipe + " " + plain, ""},
		{"warm", agent + " connect --stdio ssh-lab", ""},
		{"own-session", alone + " connect --stdio ssh-lab", ""},
		{"cold-agent", agent + " connect --stdio ssh-lab", agent + " agent stop"},
	}
	ssh := func(proxy string) (time.Duration, error) {
		if proxy != "none" {
			proxy += " 2>/dev/null" // else waiting for ssh means waiting for the proxy's end, too
		}
		begin := time.Now()
		_, err := l.Run(b.Context(), "client", "ssh", "-F", "none", "-i", filepath.Join(l.Dir, "sshd", "user_key"),
			"-o", "UserKnownHostsFile=/dev/null", "-o", "StrictHostKeyChecking=no", "-o", "LogLevel=ERROR",
			"-o", "BatchMode=yes", "-o", "ProxyCommand="+proxy, "root@"+lab.StrangerV4.String(), "true")
		return time.Since(begin), err
	}
	err = lab.Wait(b.Context(), 10*time.Second, "sshd to answer", func() (bool, error) {
		_, err := ssh("none")
		return err == nil, err
	})
	if err != nil {
		b.Fatalf("%v: %s", err, open.Log())
	}
	if _, err := ssh(ways[2].proxy); err != nil { // starts the agent
		b.Fatal(err)
	}
	took := make(map[string][]time.Duration)
	for b.Loop() {
		for _, w := range ways {
			if w.before != "" {
				if _, err := l.Run(b.Context(), "client", "sh", "-c", w.before); err != nil {
					b.Fatal(err)
				}
			}
			t, err := ssh(w.proxy)
			if err != nil {
				b.Fatalf("%s: %v", w.name, err)
			}
			took[w.name] = append(took[w.name], t)
		}
		if _, err := ssh(ways[2].proxy); err != nil { // the agent is new
			b.Fatal(err)
		}
	}
	if _, err := l.Run(b.Context(), "client", "sh", "-c", agent+" agent stop"); err != nil {
		b.Error(err)
	}
	median := func(name string) float64 {
		all := slices.Sorted(slices.Values(took[name]))
		return float64(all[len(all)/2].Microseconds()) / 1000
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median("plain"), "plain-ms")
	b.ReportMetric(median("pipe"), "pipe-ms")
	for _, w := range ways[2:] {
		b.ReportMetric(median(w.name)-median("pipe"), w.name+"-over-pipe-ms")
		b.ReportMetric(median(w.name)-median("plain"), w.name+"-over-plain-ms")
	}
}
