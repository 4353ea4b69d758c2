package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/postern-sdp/postern/controller"
	"github.com/postern-sdp/postern/internal/testkit"
)

const (
	serviceUnit = "../../configs/systemd/postern-controller.service"
	account     = 996 // stands for the user postern
)

// service is a controller run as systemd would run it: with the unit's user and
// capabilities, by hand, in a namespace.
type service struct {
	t       *testing.T
	ns      *testkit.Namespace
	dir     string
	me      string
	config  string
	manager *testkit.Manager
	cmd     *exec.Cmd
	log     bytes.Buffer // complete when the process has ended
}

func newService(t *testing.T) *service {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs root, to become the service's user")
	}
	s := &service{t: t, ns: testkit.Netns(t), dir: t.TempDir()}
	s.me, s.config = filepath.Join(s.dir, "me"), filepath.Join(s.dir, "c.toml")
	if err := os.Chmod(filepath.Dir(s.dir), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := controller.Init(filepath.Join(s.dir, "state"), "gate.example"); err != nil {
		t.Fatal(err)
	}
	s.configure("")
	build := exec.Command("go", "build", "-o", s.me, ".") // as it is shipped
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	s.manager = testkit.NewManager(t, filepath.Join(s.dir, "notify"))
	// What root made becomes the service's, as StateDirectory= does at a start.
	err := filepath.WalkDir(s.dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chown(path, account, account)
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *service) configure(policy string) {
	s.t.Helper()
	policyFile := filepath.Join(s.dir, "policy.toml")
	text := fmt.Sprintf("name = \"gate.example\"\nstate = %q\nadmin_socket = %q\npolicy = %q\n[knock]\n"+
		"source = \"capture\"\n", filepath.Join(s.dir, "state"), filepath.Join(s.dir, "admin.sock"), policyFile)
	for path, text := range map[string]string{s.config: text, policyFile: policy} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			s.t.Fatal(err)
		}
	}
}

// start runs the controller behind the wrapper until it is ready.
func (s *service) start(wrapper ...string) {
	s.t.Helper()
	capabilities := testkit.Unit(s.t, serviceUnit, "AmbientCapabilities")
	args := slices.Concat(wrapper, testkit.Setpriv(account, capabilities),
		[]string{s.me, "--config", s.config, "serve"})
	s.cmd = exec.Command(args[0], args[1:]...)
	s.cmd.Env = []string{"NOTIFY_SOCKET=" + s.manager.Socket, "WATCHDOG_USEC=300000",
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	s.cmd.Stderr, s.cmd.WaitDelay = &s.log, 5*time.Second
	var err error
	s.ns.Do(s.t, func() { err = s.cmd.Start() })
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if s.cmd.ProcessState == nil {
			_ = s.cmd.Process.Kill()
			_ = s.cmd.Wait()
		}
		if s.t.Failed() {
			s.t.Logf("the controller's log:\n%s", &s.log)
		}
	})
	s.manager.Hear(s.t, "READY=1")
}

// live goes through what a service manager asks of process pid, to its end.
func (s *service) live(pid int) {
	s.t.Helper()
	s.configure("[[grant]]\nnonsense = 1\n")
	for _, step := range []struct {
		signal syscall.Signal
		then   []string
	}{
		{syscall.SIGHUP, []string{"RELOADING=1", "READY=1"}}, {syscall.SIGTERM, []string{"STOPPING=1"}},
	} {
		if err := syscall.Kill(pid, step.signal); err != nil {
			s.t.Fatal(err)
		}
		for _, want := range step.then {
			s.manager.Hear(s.t, want)
		}
	}
	if err := s.cmd.Wait(); err != nil {
		s.t.Errorf("the controller ended with %v", err)
	}
	if !strings.Contains(s.log.String(), "policy not loaded") {
		s.t.Error("SIGHUP did not load the policy again")
	}
}

func TestTheUnitsUserAndCapabilitiesSufficeFromReadyToStopped(t *testing.T) {
	s := newService(t)
	s.start()
	if got := s.ns.Run(t, "nft", "list", "tables"); !strings.Contains(got, controller.DefaultTable) {
		t.Errorf("ready without its table: %s", got)
	}
	// Root's commands get through to the service's socket.
	if code, _, talk := newShell(t).run("--config", s.config, "status"); code != exitOK {
		t.Errorf("status by root: code %d: %s", code, talk)
	}
	s.manager.Hear(t, "STATUS=0 sessions, 0 hosts connected\nWATCHDOG=1")
	s.live(s.cmd.Process.Pid)
}

func TestTheControllerMakesNoSystemCallThatTheUnitForbids(t *testing.T) {
	s := newService(t)
	trace := filepath.Join(s.dir, "trace")
	s.start(testkit.Strace(trace)...)
	var pid int
	if _, err := fmt.Sscan(s.ns.Run(t, "pgrep", "-P", fmt.Sprint(s.cmd.Process.Pid)), &pid); err != nil {
		t.Fatal(err)
	}
	s.live(pid)
	testkit.CheckTrace(t, trace, s.me, serviceUnit)
}

func TestTheControllerLivesInTheUnitsFileSystem(t *testing.T) {
	s := newService(t)
	s.start(testkit.Sandbox(s.dir)...)
	s.live(s.cmd.Process.Pid)
}
