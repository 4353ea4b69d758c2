package main

import (
	"bufio"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// On a terminal, Ctrl-C goes to the command by itself: it must not come twice.
func TestCtrlCOnATerminalReachesTheCommandOnce(t *testing.T) {
	m := newMachine(t).enrolled()
	// A shell takes two signals that come together for one; perl counts them.
	const counts = `$| = 1; $SIG{INT} = sub { $n++ }; print "ready\n"; select(undef, undef, undef, 0.05) until $n;
		select(undef, undef, undef, 0.05) for 1 .. 10; print "times=$n\n"; exit 9`
	// With exec, for a shell in between would get the signal too, and some end of it.
	cmd := exec.CommandContext(t.Context(), "script", "--quiet", "--return", "--command",
		"exec "+os.Args[0]+" exec -- perl -e \"$COUNTS\"", "/dev/null")
	cmd.Env = append(m.command().Env, "COUNTS="+counts)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	seen := ""
	for lines := bufio.NewScanner(out); lines.Scan(); {
		seen += lines.Text() + "\n"
		if strings.Contains(lines.Text(), "ready") {
			in.Write([]byte{3}) // Ctrl-C
		}
	}
	in.Close()
	_ = cmd.Wait() // the exit code tells
	if !strings.Contains(seen, "times=1") || cmd.ProcessState.ExitCode() != 9 {
		t.Errorf("exit code %d, saw %q", cmd.ProcessState.ExitCode(), seen)
	}
}
