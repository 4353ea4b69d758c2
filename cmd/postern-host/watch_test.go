package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-sdp/postern/host"
	"github.com/postern-sdp/postern/internal/control"
)

// answering is an agent's status socket with an answer that counts up.
func answering(t *testing.T) (config string, stop func()) {
	t.Helper()
	config = configuration(t, "")
	run := filepath.Join(filepath.Dir(config), "run")
	if err := os.Mkdir(run, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(run, "status.sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	var n atomic.Uint64
	go func() { // ends with the listener
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = json.NewEncoder(c).Encode(host.Status{
				Name: "web1", Silenced: n.Add(1), CertificateExpires: time.Now().Add(time.Hour),
				Dropped:  &host.DroppedStatus{Input: 5, Door: 6, Forward: 7, Output: 8},
				Pinholes: []host.PinholeStatus{{Source: "192.0.2.7:4711", Port: 4042, Left: control.Duration(time.Minute)}},
			})
			c.Close()
		}
	}()
	return config, func() { l.Close() }
}

// watching runs status --watch into a stream until the test is content.
func watching(t *testing.T, out io.Writer, args ...string) (interrupt func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan int, 1)
	var talk bytes.Buffer
	p := program{in: strings.NewReader(""), out: out, talk: &talk}
	go func() { // ends with ctx
		done <- p.report(p.run(ctx, append([]string{"postern-host", "status", "--watch", "--interval", "100ms"}, args...)))
	}()
	interrupt = func() int {
		cancel()
		code, ok := <-done
		if ok {
			close(done)
		}
		if code != exitOK {
			t.Logf("it said: %s", &talk)
		}
		return code
	}
	t.Cleanup(func() { interrupt() })
	return interrupt
}

func TestWatchWritesOneDocumentALineAndEndsWellAtCtrlC(t *testing.T) {
	config, _ := answering(t)
	r, w := io.Pipe()
	interrupt := watching(t, w, "--json", "--config", config)
	lines := bufio.NewScanner(r)
	for want := uint64(1); want <= 3 && lines.Scan(); want++ {
		var s host.Status
		if err := json.Unmarshal(lines.Bytes(), &s); err != nil || s.Silenced != want {
			t.Errorf("line %d: %q, %v", want, lines.Text(), err)
		}
	}
	go func() { _, _ = io.Copy(io.Discard, r) }() // ends with the pipe
	if code := interrupt(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	w.Close()
}

func TestWatchAppendsToAFileAndRedrawsATerminal(t *testing.T) {
	config, _ := answering(t)
	terminal, end := openTerminal(t)
	piped, pipe, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer piped.Close()
	for _, c := range []struct {
		name    string
		to      *os.File
		from    io.Reader
		redraws bool
	}{{"terminal", end, terminal, true}, {"pipe", pipe, piped, false}} {
		interrupt := watching(t, c.to, "--config", config)
		var text strings.Builder
		for b := make([]byte, 4096); strings.Count(text.String(), "dropped") < 3; {
			n, err := c.from.Read(b)
			if err != nil {
				t.Fatal(err)
			}
			text.Write(b[:n])
		}
		if code := interrupt(); code != exitOK {
			t.Errorf("%s: exit code %d", c.name, code)
		}
		c.to.Close()
		if got := strings.Contains(text.String(), goHome); got != c.redraws {
			t.Errorf("%s: redrawn %t:\n%q", c.name, got, text.String())
		}
		for _, want := range []string{"5 to the host, 6 at doors", "192.0.2.7:4711", "1m0s left", "in 1h0m0s"} {
			if !strings.Contains(text.String(), want) {
				t.Errorf("%s does not show %q:\n%s", c.name, want, text.String())
			}
		}
	}
}

// openTerminal returns both ends of a pseudo-terminal.
func openTerminal(t *testing.T) (outside, inside *os.File) {
	t.Helper()
	outside, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { outside.Close() })
	if err := unix.IoctlSetPointerInt(int(outside.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(outside.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	inside, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatalf("open terminal %d: %v", number, err)
	}
	t.Cleanup(func() { inside.Close() })
	return outside, inside
}

func TestWatchWaitsForAnAgentThatRestarts(t *testing.T) {
	config, stop := answering(t)
	r, w := io.Pipe()
	interrupt := watching(t, w, "--config", config)
	lines := bufio.NewScanner(r)
	for lines.Scan() && !strings.Contains(lines.Text(), "web1") {
	}
	stop()
	for lines.Scan() && !strings.Contains(lines.Text(), "waiting for it") {
	}
	if lines.Err() != nil || !strings.Contains(lines.Text(), "no agent answers") {
		t.Errorf("it said %q, %v", lines.Text(), lines.Err())
	}
	go func() { _, _ = io.Copy(io.Discard, r) }() // ends with the pipe
	if code := interrupt(); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	w.Close()
}

func TestWatchRefusesWhatMakesNoSense(t *testing.T) {
	config, _ := answering(t)
	for _, args := range [][]string{{"--watch", "--interval", "1ms"}, {"--interval", "5s"}} {
		got := command(t, "", append([]string{"status", "--config", config}, args...)...)
		if got.code != exitUsage || !strings.Contains(got.talk, "--interval") || got.out != "" {
			t.Errorf("%v: %+v", args, got)
		}
	}
	if got := command(t, "", "status", "--watch", "--config", configuration(t, "")); got.code != exitNotRunning {
		t.Errorf("without an agent: %+v", got)
	}
}
