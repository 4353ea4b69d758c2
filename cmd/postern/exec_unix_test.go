//go:build unix

package main

import (
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
)

func TestExecPassesSignalsAndTellsOfThem(t *testing.T) {
	m := newMachine(t).enrolled()
	m.web() // the proxy is there until the command has ended
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGQUIT} {
		l := m.alone("exec", "--", "sh", "-c", "trap 'curl -sS http://echo/; exit 7' "+strings.TrimPrefix(signalName(s), "SIG")+
			"; echo ready; while :; do sleep 0.05; done")
		if l.line(t) != "ready" {
			t.Fatal("the command does not run")
		}
		if err := l.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
		if r := l.end(); r.code != 7 || r.out != "GET for echo\n" || r.talk != "" {
			t.Errorf("%s: got %+v", s, r)
		}
	}
	l := m.alone("exec", "--", "sh", "-c", "echo ready; exec sleep 100")
	l.line(t)
	l.Process.Signal(os.Signal(syscall.SIGTERM))
	if r := l.end(); r.code != exitBySignal+int(syscall.SIGTERM) {
		t.Errorf("a command that a signal ended: %+v", r)
	}
	l = m.alone("exec", "--", "sh", "-c", "kill -9 $$")
	_, _ = io.Copy(io.Discard, l.out)
	if r := l.end(); r.code != exitBySignal+9 {
		t.Errorf("a command that was killed: %+v", r)
	}
}

// alone is start in a session without a terminal: one that sends the signals of its
// keys to the command itself makes a difference.
func (m *machine) alone(args ...string) *live {
	m.t.Helper()
	l := &live{Cmd: m.command(args...)}
	l.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	l.Stderr = &l.talk
	var err error
	if l.out, err = l.StdoutPipe(); err != nil {
		m.t.Fatal(err)
	}
	if err := l.Start(); err != nil {
		m.t.Fatal(err)
	}
	return l
}

func signalName(s syscall.Signal) string {
	return map[syscall.Signal]string{
		syscall.SIGTERM: "SIGTERM", syscall.SIGINT: "SIGINT", syscall.SIGHUP: "SIGHUP",
		syscall.SIGUSR1: "SIGUSR1", syscall.SIGQUIT: "SIGQUIT",
	}[s]
}
