package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// manager is a service manager's socket; it returns what was told, one datagram a
// string.
func manager(t *testing.T, watchdog time.Duration) <-chan string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", fmt.Sprint(watchdog.Microseconds()))
	t.Setenv("WATCHDOG_PID", fmt.Sprint(os.Getpid()))
	if watchdog == 0 {
		os.Unsetenv("WATCHDOG_USEC") // t.Setenv puts it back
	}
	told := make(chan string, 1000)
	go func() { // ends with the socket
		b := make([]byte, 4096)
		for {
			n, err := l.Read(b)
			if err != nil {
				return
			}
			told <- string(b[:n])
		}
	}()
	return told
}

func next(t *testing.T, told <-chan string) string {
	t.Helper()
	select {
	case s := <-told:
		return s
	case <-time.After(10 * time.Second):
		t.Fatal("the manager was told nothing")
		return ""
	}
}

var quiet = Manager{Log: slog.New(slog.DiscardHandler)}

func TestTheManagerIsToldEachStateInItsOwnWords(t *testing.T) {
	told := manager(t, 0)
	quiet.Ready("two\nlines=1\nREADY=0")
	if got := next(t, told); got != "READY=1\nSTATUS=two lines=1 READY=0" {
		t.Errorf("ready: %q", got)
	}
	quiet.Reloading()
	got := next(t, told)
	var usec int64
	_, rest, _ := strings.Cut(got, "MONOTONIC_USEC=")
	if _, err := fmt.Sscan(rest, &usec); err != nil || usec <= 0 || !strings.HasPrefix(got, "RELOADING=1\n") {
		t.Errorf("reloading: %q, %v", got, err)
	}
	quiet.Stopping()
	if got := next(t, told); !strings.HasPrefix(got, "STOPPING=1\n") {
		t.Errorf("stopping: %q", got)
	}
}

func TestWithoutAManagerNothingIsSaidAndNothingFails(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	var log bytes.Buffer
	m := Manager{Log: slog.New(slog.NewTextHandler(&log, nil))}
	m.Ready("x")
	m.Reloading()
	m.Stopping()
	if log.Len() > 0 {
		t.Errorf("logged %s", &log)
	}
}

func TestADeadMainLoopMissesTheWatchdog(t *testing.T) {
	told := manager(t, 60*time.Millisecond)
	ctx, cancel := context.WithCancel(t.Context())
	var stuck atomic.Bool
	var asked atomic.Int64
	done := make(chan struct{})
	go func() { // ends with ctx
		defer close(done)
		quiet.Watch(ctx, func(ctx context.Context) error {
			asked.Add(1)
			if stuck.Load() {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}, func() string { return "fine" })
	}()
	for range 3 {
		if got := next(t, told); got != "STATUS=fine\nWATCHDOG=1" {
			t.Fatalf("alive: %q", got)
		}
	}
	stuck.Store(true)
	for before := asked.Load(); asked.Load() < before+2; {
		time.Sleep(time.Millisecond) // until every call that saw it alive is over
	}
	for len(told) > 0 {
		<-told
	}
	for before := asked.Load(); asked.Load() < before+5; {
		select {
		case got := <-told:
			t.Fatalf("a stuck loop told %q", got)
		case <-time.After(time.Millisecond):
		}
	}
	stuck.Store(false)
	if got := next(t, told); got != "STATUS=fine\nWATCHDOG=1" {
		t.Errorf("alive again: %q", got)
	}
	cancel()
	<-done
}

func TestWithoutAWatchdogOnlyTheStatusIsTold(t *testing.T) {
	told := manager(t, 0)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { // ends with ctx
		defer close(done)
		quiet.Watch(ctx, func(context.Context) error { return nil }, func() string { return "fine" })
	}()
	if got := next(t, told); got != "STATUS=fine" {
		t.Errorf("told %q", got)
	}
	cancel()
	<-done
}

func TestTheJournalGetsPrioritiesAndNoTimes(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	info, err := w.Stat()
	if err != nil {
		t.Fatal(err)
	}
	stat := info.Sys().(*syscall.Stat_t)
	t.Setenv("JOURNAL_STREAM", fmt.Sprintf("%d:%d", stat.Dev, stat.Ino))
	log := Logger(w, slog.LevelDebug).With("a", 1)
	log.Error("one", "error", errors.New("two\nlines"))
	log.Warn("two")
	log.Info("three")
	log.WithGroup("g").Debug("four", "time", 5)
	w.Close()
	got, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	const want = "<3>msg=one a=1 error=\"two\\nlines\"\n<4>msg=two a=1\n<6>msg=three a=1\n" +
		"<7>msg=four a=1 g.time=5\n"
	if string(got) != want {
		t.Errorf("the journal got\n%s\nwant\n%s", got, want)
	}
}

func TestAnotherStreamThanTheJournalsGetsWholeLines(t *testing.T) {
	t.Setenv("JOURNAL_STREAM", "1:1")
	f, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	level := new(slog.LevelVar)
	log := Logger(f, level)
	log.Debug("silent")
	log.Info("heard")
	level.Set(slog.LevelDebug)
	log.Debug("later")
	b, err := os.ReadFile(f.Name())
	if err != nil || bytes.Contains(b, []byte("silent")) || !bytes.Contains(b, []byte("later")) ||
		!bytes.HasPrefix(b, []byte("time=")) || !bytes.Contains(b, []byte("level=INFO msg=heard")) {
		t.Errorf("wrote %s, %v", b, err)
	}
}
