package bench

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-sdp/postern/test/lab"
)

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// newLab stands up a lab with the system running on it.
func newLab(b *testing.B) *lab.Lab { return newLabWith(b, "") }

// newLabWith is newLab with that firewall.backend on the host.
func newLabWith(b *testing.B, backend string) *lab.Lab {
	b.Helper()
	bin := b.TempDir()
	build := exec.Command("go", "build", "-o", bin, "./cmd/...")
	build.Dir, build.Env = filepath.Join("..", ".."), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("go build: %v\n%s", err, out)
	}
	l, err := lab.ForProcess("pb", bin, filepath.Join(b.TempDir(), "lab"))
	if err != nil {
		b.Fatal(err)
	}
	l.LogLevel, l.Backend = "info", backend
	if err := lab.Up(l); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := l.Down(); err != nil {
			b.Error(err)
		}
	})
	if err := l.StartSystem(b.Context()); err != nil {
		b.Fatalf("%v\n%s", err, l.Logs())
	}
	return l
}

// child runs this test binary in a role on one of the lab's machines.
func child(ctx context.Context, l *lab.Lab, where, role string, result any, env ...string) error {
	args := append([]string{roleVariable + "=" + role, "XDG_CONFIG_HOME=" + l.ConfigHome(where)}, env...)
	out, err := l.Run(ctx, where, "env", append(args, os.Args[0])...)
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(out), result)
}

func BenchmarkAccess(b *testing.B) {
	l := newLab(b)
	for b.Loop() {
		var times accessTimes
		if err := child(b.Context(), l, "client", roleAccess, &times, "POSTERN_BENCH_COUNT=200"); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(ms(median(times.Grant)), "ms-knock-to-pinhole")
		b.ReportMetric(ms(median(times.FirstByte)), "ms-knock-to-first-byte")
	}
}

// BenchmarkCommand is `postern knock` as a whole process, to compare with fwknop's.
func BenchmarkCommand(b *testing.B) {
	l := newLab(b)
	for b.Loop() {
		var took []time.Duration
		for range 50 {
			start := time.Now()
			_, err := l.Run(b.Context(), "client", "env", "XDG_CONFIG_HOME="+l.ConfigHome("client"),
				filepath.Join(l.Bin, "postern"), "knock", "--for", "1s", "hello")
			if err != nil {
				b.Fatal(err)
			}
			took = append(took, time.Since(start))
		}
		b.ReportMetric(ms(median(took)), "ms-command-to-pinhole")
	}
}

func BenchmarkFlood(b *testing.B) {
	l := newLab(b)
	for b.Loop() {
		var rate float64
		var outcome knockOutcome
		var wg sync.WaitGroup
		wg.Go(func() {
			err := child(b.Context(), l, "stranger", roleFlood, &rate, "POSTERN_BENCH_COUNT=8",
				"POSTERN_BENCH_TARGET=198.51.100.20:4040")
			if err != nil {
				b.Error(err)
			}
		})
		time.Sleep(time.Second) // the flood is under way
		err := child(b.Context(), l, "client", roleKnock, &outcome, "POSTERN_BENCH_COUNT=300")
		wg.Wait()
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(rate, "garbage/s")
		b.ReportMetric(100*float64(outcome.First)/float64(outcome.Sent), "%-accepted")
		if len(outcome.Times) > 0 {
			b.ReportMetric(ms(median(outcome.Times)), "ms-median")
		}
	}
}

func BenchmarkRevocation(b *testing.B) {
	l := newLab(b)
	for b.Loop() {
		var took []time.Duration
		for range 20 {
			d, err := l.RevokeUnderLoad(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			took = append(took, d)
		}
		b.ReportMetric(ms(median(took)), "ms-command-to-last-byte")
		b.ReportMetric(ms(took[len(took)-1]), "ms-worst")
	}
}

// BenchmarkCut is how long after its end a session's bytes still come: revoked by
// command, or at its deadline, with the agent killed for the direct service.
func BenchmarkCut(b *testing.B) {
	for _, backend := range []string{"nftables", "iptables"} {
		b.Run(backend, func(b *testing.B) {
			l := newLabWith(b, backend)
			if err := l.PrepareCut(b.Context()); err != nil {
				b.Fatal(err)
			}
			cuts(b, l)
		})
	}
}

func cuts(b *testing.B, l *lab.Lab) {
	const length = 3 * time.Second
	for _, cut := range []struct {
		name  string
		times int
		run   func() (time.Duration, error)
	}{
		{"revoked-tunnel", 10, func() (time.Duration, error) { return l.RevokeUnderLoad(b.Context()) }},
		{"revoked-direct", 10, func() (time.Duration, error) { return l.RevokeDirect(b.Context()) }},
		{"expired-tunnel", 3, func() (time.Duration, error) { return l.ExpireTunnel(b.Context(), length) }},
		{"expired-direct-agent-killed", 3, func() (time.Duration, error) { return l.ExpireDirect(b.Context(), length) }},
	} {
		b.Run(cut.name, func(b *testing.B) {
			for b.Loop() {
				var took, starting []time.Duration
				for range cut.times {
					begun := time.Now()
					if _, err := l.Run(b.Context(), "controller", "postern-controller", "version"); err != nil {
						b.Fatal(err)
					}
					starting = append(starting, time.Since(begun))
					d, err := cut.run()
					if err != nil {
						b.Fatal(err)
					}
					took = append(took, d)
				}
				b.ReportMetric(ms(median(took)), "ms-to-last-byte")
				b.ReportMetric(ms(took[len(took)-1]), "ms-worst")
				// A revocation begins with the start of a program; on a busy machine that is most of it.
				b.ReportMetric(ms(median(starting)), "ms-to-start-a-program")
				b.ReportMetric(ms(starting[len(starting)-1]), "ms-worst-start")
			}
		})
	}
}

// BenchmarkFwknop is Debian's fwknop on the same network, in its default mode and
// in its fastest.
func BenchmarkFwknop(b *testing.B) {
	if _, err := exec.LookPath("fwknop"); err != nil {
		b.Skip("fwknop is not installed: apt-get install fwknop-client fwknop-server")
	}
	for mode, extra := range map[string]string{
		"capture": "PCAP_INTF eth0;\n", "udp-server": "ENABLE_UDP_SERVER Y;\nUDPSERV_SELECT_TIMEOUT 100;\n",
	} {
		b.Run(mode, func(b *testing.B) {
			l := newLab(b)
			rc, daemon := fwknopServer(b, l, extra)
			warmUp(b, l, rc)
			for b.Loop() {
				var all, sending []time.Duration
				for range 20 {
					if _, err := l.Run(b.Context(), "stranger", "iptables", "-F", "FWKNOP_INPUT"); err != nil {
						b.Fatal(err)
					}
					took, err := fwknopKnock(b.Context(), l, rc)
					if err != nil {
						b.Fatalf("%v\n%s", err, daemon.Log())
					}
					all, sending = append(all, took[0]), append(sending, took[1])
				}
				b.ReportMetric(ms(median(all)), "ms-command-to-pinhole")
				b.ReportMetric(ms(median(sending)), "ms-of-it-the-command")
			}
		})
	}
}

// fwknopKnock returns the time to the first connection, and that of the command.
func fwknopKnock(ctx context.Context, l *lab.Lab, rc string) (took []time.Duration, err error) {
	err = child(ctx, l, "client", roleFwknop, &took,
		"POSTERN_BENCH_TARGET=198.51.100.66:7000", "POSTERN_BENCH_RC="+rc)
	return took, err
}

// warmUp knocks until fwknopd takes one: it says that it listens before it does.
func warmUp(b *testing.B, l *lab.Lab, rc string) {
	b.Helper()
	for range 5 {
		if _, err := fwknopKnock(b.Context(), l, rc); err == nil {
			return
		}
	}
	b.Fatal("fwknopd takes no knock")
}

// fwknopServer protects TCP port 7000 of the machine called stranger with fwknopd.
func fwknopServer(b *testing.B, l *lab.Lab, extra string) (rc string, daemon *lab.Process) {
	b.Helper()
	dir := b.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			b.Fatal(err)
		}
		return path
	}
	const secret = "KEY_BASE64 c29tZSAzMiBieXRlcyBmb3IgYSBiZW5jaG1hcmshISE=\n" +
		"HMAC_KEY_BASE64 b3RoZXIgMzIgYnl0ZXMgZm9yIGEgYmVuY2htYXJrISE=\n"
	access := write("access.conf", "SOURCE ANY\n"+secret+"FW_ACCESS_TIMEOUT 30\n")
	conf := write("fwknopd.conf", extra+"FWKNOP_RUN_DIR "+dir+";\nFWKNOP_PID_FILE "+dir+"/pid;\n")
	rc = write("fwknoprc", "[bench]\n"+secret+"USE_HMAC Y\n")
	drop := []string{"-A", "INPUT", "-p", "tcp", "--dport", "7000", "-j", "DROP"}
	if _, err := l.Run(b.Context(), "stranger", "iptables", drop...); err != nil {
		b.Fatal(err)
	}
	if err := l.Serve("stranger", "0.0.0.0:7000", func(c net.Conn) { _ = c.Close() }); err != nil {
		b.Fatal(err)
	}
	p, err := l.Start("stranger", "fwknopd", "-f", "-c", conf, "-a", access)
	if err != nil {
		b.Fatal(err)
	}
	err = lab.Wait(b.Context(), 10*time.Second, "fwknopd to listen", func() (bool, error) {
		ready := strings.Contains(p.Log(), "main event loop") || strings.Contains(p.Log(), "UDP server to listen")
		return ready && p.Running(), nil
	})
	if err != nil {
		b.Fatalf("%v\n%s", err, p.Log())
	}
	return rc, p
}
