package main

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"testing"
	"time"
)

// BenchmarkSSHTrue is what `ssh host true` costs as a process: plain, through a warm
// agent, through a session of its own (a knock and a tunnel each), and with an agent
// that has to be started first. Rounds take turns, so that noise meets all alike.
func BenchmarkSSHTrue(b *testing.B) {
	m := newMachine(b)
	m.enrolled().withAgent()
	keyFile := m.sshd()
	program := built(b)
	known := filepath.Join(b.TempDir(), "known")
	_, port, err := net.SplitHostPort(m.behind)
	if err != nil {
		b.Fatal(err)
	}
	ssh := func(env []string, args ...string) time.Duration {
		cmd := exec.CommandContext(b.Context(), "ssh", append([]string{"-F", "none", "-i", keyFile, "-o", "BatchMode=yes",
			"-o", "UserKnownHostsFile=" + known, "-o", "StrictHostKeyChecking=no", "-o", "LogLevel=ERROR"}, args...)...)
		cmd.Env = env
		begin := time.Now()
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
		return time.Since(begin)
	}
	env := m.command().Env
	through := func(option string) []string {
		return []string{"-o", "ProxyCommand=" + program + " connect --stdio " + option + " %h", "root@echo", "true"}
	}
	ways := []struct {
		name string
		run  func() time.Duration
	}{
		{"plain", func() time.Duration { return ssh(os.Environ(), "-p", port, "root@127.0.0.1", "true") }},
		{"warm", func() time.Duration { return ssh(env, through("")...) }},
		{"own-session", func() time.Duration { return ssh(env, through("--no-agent")...) }},
		{"cold-agent", func() time.Duration {
			stop := exec.CommandContext(b.Context(), program, "agent", "stop")
			stop.Env = env
			if out, err := stop.CombinedOutput(); err != nil {
				b.Fatalf("%v: %s", err, out)
			}
			time.Sleep(50 * time.Millisecond) // of its going
			return ssh(env, through("")...)
		}},
	}
	ways[1].run() // starts the agent
	took := make(map[string][]float64)
	for b.Loop() {
		for _, w := range ways {
			took[w.name] = append(took[w.name], float64(w.run().Microseconds())/1000)
		}
		ways[1].run() // the agent is new
	}
	for _, all := range took {
		sort.Float64s(all)
	}
	median := func(name string) float64 { return took[name][len(took[name])/2] }
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median("plain"), "plain-ms")
	for _, name := range []string{"warm", "own-session", "cold-agent"} {
		b.ReportMetric(median(name)-median("plain"), name+"-more-ms")
	}
}
