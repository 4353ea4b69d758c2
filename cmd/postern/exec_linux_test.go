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
	const counts = `n=0; trap 'n=$((n+1))' INT; echo ready; while [ $n = 0 ]; do sleep 0.05; done; ` +
		`sleep 0.3; sleep 0.3; echo "times=$n"; exit 9`
	cmd := exec.CommandContext(t.Context(), "script", "--quiet", "--return", "--command",
		os.Args[0]+" exec -- sh -c \"$COUNTS\"", "/dev/null")
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
