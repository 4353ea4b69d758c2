package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postern-sdp/postern/controller"
	"github.com/postern-sdp/postern/internal/testkit"
)

// TestTheUnitsUserAndCapabilitiesSufficeFromReadyToStopped runs the daemon as systemd
// would: the unit's user, with its capabilities and no other, in a namespace.
func TestTheUnitsUserAndCapabilitiesSufficeFromReadyToStopped(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("needs root, to become the service's user")
	}
	const account = 996 // stands for the user postern
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	state, config, me := filepath.Join(dir, "state"), filepath.Join(dir, "c.toml"), filepath.Join(dir, "me")
	if _, err := controller.Init(state, "gate.example"); err != nil {
		t.Fatal(err)
	}
	configure := func(policy string) {
		text := fmt.Sprintf("name = \"gate.example\"\nstate = %q\nadmin_socket = %q\npolicy = %q\n[knock]\n"+
			"source = \"capture\"\n", state, filepath.Join(dir, "admin.sock"), filepath.Join(dir, "policy.toml"))
		for path, text := range map[string]string{config: text, filepath.Join(dir, "policy.toml"): policy} {
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	configure("")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(self)
	if err == nil {
		err = os.WriteFile(me, b, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	manager := testkit.NewManager(t, filepath.Join(dir, "notify"))
	// What root made becomes the service's, as StateDirectory= does at a start.
	err = filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chown(path, account, account)
	})
	if err != nil {
		t.Fatal(err)
	}
	ns := testkit.Netns(t)
	args := append(testkit.Setpriv(account, testkit.Unit(t,
		"../../configs/systemd/postern-controller.service", "AmbientCapabilities")),
		me, "--config", config, "serve")
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = []string{asProgram + "=1", "NOTIFY_SOCKET=" + manager.Socket, "WATCHDOG_USEC=300000"}
	var log bytes.Buffer
	cmd.Stderr, cmd.WaitDelay = &log, 5*time.Second
	ns.Do(t, func() { err = cmd.Start() })
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
		if t.Failed() {
			t.Logf("the controller's log:\n%s", &log)
		}
	}()
	manager.Hear(t, "READY=1")
	if got := ns.Run(t, "nft", "list", "tables"); !strings.Contains(got, controller.DefaultTable) {
		t.Errorf("ready without its table: %s", got)
	}
	// Root's commands get through to the service's socket.
	if code, _, talk := newShell(t).run("--config", config, "status"); code != exitOK {
		t.Errorf("status by root: code %d: %s", code, talk)
	}
	manager.Hear(t, "STATUS=0 sessions, 0 hosts connected\nWATCHDOG=1")
	configure("[[grant]]\nnonsense = 1\n")
	for _, step := range []struct {
		signal syscall.Signal
		then   []string
	}{
		{syscall.SIGHUP, []string{"RELOADING=1", "READY=1"}},
		{syscall.SIGTERM, []string{"STOPPING=1"}},
	} {
		if err := cmd.Process.Signal(step.signal); err != nil {
			t.Fatal(err)
		}
		for _, want := range step.then {
			manager.Hear(t, want)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("the controller ended with %v", err)
	}
	if !strings.Contains(log.String(), "policy not loaded") {
		t.Error("SIGHUP did not load the policy again")
	}
}
