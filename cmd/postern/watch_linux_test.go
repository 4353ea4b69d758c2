package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/postern-sdp/postern/internal/control/controltest"
)

// ctrlC ends a watch, which is no failure.
func ctrlC(t *testing.T, l *live) {
	t.Helper()
	l.Process.Signal(os.Interrupt)
	if r := l.end(); r.code != exitOK || r.talk != "" {
		t.Errorf("it ended with %d; it said %s", r.code, r.talk)
	}
}

func TestStatusIsWatchedUntilCtrlC(t *testing.T) {
	m := newMachine(t).enrolled()
	watch := m.start("status", "--watch", "--interval", "100ms", "--json")
	look := func() (s statusJSON) {
		t.Helper()
		if err := json.Unmarshal([]byte(watch.line(t)), &s); err != nil || s.Answers == nil || !*s.Answers {
			t.Fatalf("%+v, %v", s, err)
		}
		return s
	}
	if s := look(); len(s.Here) != 0 {
		t.Errorf("somebody is here: %+v", s.Here)
	}
	knock := m.start("connect", "echo", "--listen", "127.0.0.1:0", "--json")
	knock.line(t)
	for s := look(); len(s.Here) == 0 || len(s.Here[0].Sessions) == 0; s = look() {
	}
	ctrlC(t, watch)
	knock.Process.Signal(os.Interrupt)
	knock.end()
}

func TestAWatchGoesOnWhenTheControllerIsSilent(t *testing.T) {
	m := newMachine(t).enrolled()
	m.c.Set(func(c *controltest.Controller) { c.Lose = 1000 })
	watch := m.start("--timeout", "200ms", "status", "--watch", "--interval", "100ms")
	for range 3 {
		var look bytes.Buffer
		for line := watch.line(t); line != ""; line = watch.line(t) { // an empty one ends each look
			look.WriteString(line + "\n")
		}
		if !strings.Contains(look.String(), "answers      no\n") || strings.Contains(look.String(), "\x1b") {
			t.Errorf("a look:\n%s", look.String())
		}
	}
	ctrlC(t, watch)
	m.run("", "status", "--watch", "--interval", "1ms").want(t, exitUsage, "shorter than")
}

func TestATerminalIsDrawnAnewAndADumbOneIsNot(t *testing.T) {
	m := newMachine(t).enrolled()
	for term, drawn := range map[string]bool{"xterm": true, "dumb": false} {
		command := m.command("status", "--watch", "--local", "--interval", "100ms")
		line := "exec " + strings.Join(command.Args, " ")
		watch := &live{Cmd: exec.CommandContext(t.Context(), "script", "--quiet", "--return", "--command", line, os.DevNull)}
		watch.Env = append(command.Env, "TERM="+term)
		var err error
		if watch.out, err = watch.StdoutPipe(); err == nil {
			err = watch.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		var all strings.Builder
		for strings.Count(all.String(), "certificate") < 3 {
			all.WriteString(watch.line(t) + "\n")
		}
		watch.Process.Kill()
		io.Copy(io.Discard, watch.out)
		watch.Wait()
		shown := all.String()
		if strings.Contains(shown, clearScreen) != drawn || drawn && strings.Count(shown, goHome) != 3 || !drawn && strings.Contains(shown, "\x1b") {
			t.Errorf("%s: %q", term, shown)
		}
	}
}
