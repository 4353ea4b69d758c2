package main

import (
	"context"
	"errors"
	"fmt"

	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/postern-sdp/postern/firewall/nft"
	"github.com/postern-sdp/postern/host"
	"github.com/postern-sdp/postern/host/protect"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/control/controltest"
	"github.com/postern-sdp/postern/internal/testkit"
)

const (
	// asProgram makes the test binary be the command itself.
	asProgram = "POSTERN_TEST_AS_PROGRAM"
	// account stands for the user postern-host.
	account = 997

	agentUnit   = "../../configs/systemd/postern-host.service"
	metricsPort = "127.0.0.1:9464"
)

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	os.Exit(m.Run())
}

// service is an agent run as systemd would run it: the unit's user, capabilities
// and environment, by hand, in a namespace.
type service struct {
	t         *testing.T
	ns        *testkit.Namespace
	dir       string
	config    string
	manager   *testkit.Manager
	wrapper   []string // before the program
	cmd       *exec.Cmd
	log       *lockedLog
	state, me string
	folder    string // StateDirectory= of the units
}

type lockedLog struct {
	mu sync.Mutex // guards b
	b  strings.Builder
}

func (l *lockedLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newService(t *testing.T) *service {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs root, to become the service's user")
	}
	s := &service{t: t, ns: testkit.Netns(t), dir: t.TempDir(), log: &lockedLog{}}
	s.folder = filepath.Join(s.dir, "folder")
	if err := os.Mkdir(s.folder, 0o700); err != nil {
		t.Fatal(err)
	}
	s.config, s.state = filepath.Join(s.dir, "host.toml"), filepath.Join(s.dir, "state")
	s.enrol()
	s.copySelf()
	s.manager = testkit.NewManager(t, filepath.Join(s.dir, "notify"))
	for _, path := range []string{s.dir, filepath.Dir(s.dir)} {
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	err := filepath.WalkDir(s.dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chown(path, account, account)
	})
	if err != nil {
		t.Fatal(err)
	}
	s.configure("")
	return s
}

func (s *service) enrol() {
	s.t.Helper()
	c := controltest.New(s.t)
	_, err := control.Join(s.t.Context(), control.JoinConfig{
		Token: c.Token(control.RoleHost), Role: control.RoleHost, Folder: s.state, Name: "web1",
	})
	if err != nil {
		s.t.Fatal(err)
	}
	err = protect.Store{Folder: s.state}.Change(s.t.Context(), func(r *protect.Record, _ protect.Clock) error {
		r.State = protect.On // as `postern-host protect` and `confirm` leave it
		return nil
	}, func(protect.Record, protect.Clock) error { return nil })
	if err != nil {
		s.t.Fatal(err)
	}
}

// copySelf puts the program where the service's user may run it.
func (s *service) copySelf() {
	s.t.Helper()
	self, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	b, err := os.ReadFile(self)
	if err != nil {
		s.t.Fatal(err)
	}
	s.me = filepath.Join(s.dir, "postern-host")
	if err := os.WriteFile(s.me, b, 0o755); err != nil {
		s.t.Fatal(err)
	}
}

func (s *service) configure(more string) {
	s.t.Helper()
	text := fmt.Sprintf("state = %q\nstatus_socket = %q\nmetrics = %q\n%s",
		s.state, filepath.Join(s.dir, "status.sock"), metricsPort, more)
	if err := os.WriteFile(s.config, []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// start runs the agent with the capabilities that the unit gives it.
func (s *service) start(capabilities []string) {
	s.t.Helper()
	args := slices.Concat(s.wrapper, testkit.Setpriv(account, capabilities),
		[]string{s.me, "serve", "--config", s.config})
	s.cmd = exec.Command(args[0], args[1:]...)
	s.cmd.Env = []string{asProgram + "=1", "NOTIFY_SOCKET=" + s.manager.Socket,
		"STATE_DIRECTORY=" + s.folder,
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	s.cmd.Stderr = s.log
	s.cmd.WaitDelay = 5 * time.Second
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
			s.t.Logf("the agent's log:\n%s", s.log)
		}
	})
}

func (s *service) hear(want string) {
	s.t.Helper()
	s.manager.Hear(s.t, want)
}

func (s *service) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// stop ends the agent as systemd does.
func (s *service) stop() {
	s.t.Helper()
	s.signal(syscall.SIGTERM)
	s.hear("STOPPING=1")
	if err := s.cmd.Wait(); err != nil {
		s.t.Errorf("the agent ended with %v", err)
	}
}

// rules are the kernel's, as nft prints them.
func (s *service) rules() string { return s.ns.Run(s.t, "nft", "list", "ruleset") }

func TestTheUnitsUserAndCapabilitiesSufficeFromReadyToStopped(t *testing.T) {
	s := newService(t)
	s.start(testkit.Unit(t, agentUnit, "AmbientCapabilities"))
	s.hear("READY=1")
	fw, err := nft.New(nft.Config{Table: host.DefaultTable, NetNS: s.ns.FD()})
	if err != nil {
		t.Fatal(err)
	}
	defer fw.Close()
	if _, err := fw.List(t.Context()); err != nil {
		t.Errorf("ready without its table: %v", err)
	}
	if st, err := host.ReadStatus(t.Context(), filepath.Join(s.dir, "status.sock")); err != nil || !st.Capture {
		t.Errorf("ready without its sockets: %+v, %v", st, err)
	}
	s.scrape()

	before := s.rules()
	s.configure("log_level = \"debug\"\n[tunnel]\nlisten = \"[::]:4142\"\n[[keep]]\nsource = \"192.0.2.99\"\n")
	s.signal(syscall.SIGHUP)
	s.hear("RELOADING=1")
	s.hear("READY=1")
	after := s.rules()
	if strings.Contains(before, "192.0.2.99") || !strings.Contains(after, "192.0.2.99") {
		t.Errorf("the keep rule was not taken over:\n%s", after)
	}
	testkit.Eventually(t, 10*time.Second, "what waits for a restart is named", func() bool {
		return regexp.MustCompile(`next start.*settings=.?\[tunnel.listen\]`).MatchString(s.log.String())
	})

	s.configure("[[keep]]\nsource = \"192.0.2.0/99\"\n")
	s.signal(syscall.SIGHUP)
	s.hear("RELOADING=1")
	s.hear("READY=1")
	if got := s.rules(); !strings.Contains(got, "192.0.2.99") {
		t.Errorf("a faulty file changed the rules:\n%s", got)
	}
	testkit.Eventually(t, 10*time.Second, "the fault is in the log", func() bool {
		return strings.Contains(s.log.String(), "192.0.2.0/99")
	})

	s.stop()
	if _, err := os.Lstat(filepath.Join(s.dir, "status.sock")); !os.IsNotExist(err) {
		t.Errorf("the status socket was left behind: %v", err)
	}
	if !strings.Contains(s.rules(), host.DefaultTable) {
		t.Error("the table went with the agent")
	}
}

// scrape reads the metrics as Prometheus does.
func (s *service) scrape() {
	s.t.Helper()
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (c net.Conn, err error) {
			var d net.Dialer
			s.ns.Do(s.t, func() { c, err = d.DialContext(ctx, network, address) })
			return c, err
		},
	}}
	response, err := client.Get("http://" + metricsPort + "/metrics")
	if err != nil {
		s.t.Error(err)
		return
	}
	defer response.Body.Close()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		s.t.Errorf("scrape: %s, %v", response.Status, err)
	}
	for _, name := range []string{"postern_host_link_up", "postern_host_build_info", "process_open_fds",
		"go_goroutines", "postern_host_certificate_expiry_timestamp_seconds"} {
		if families[name] == nil {
			s.t.Errorf("%s is missing", name)
		}
	}
}

// TestATakenMetricsPortDoesNotCostTheAgent: nobody could get in after the next boot.
func TestATakenMetricsPortDoesNotCostTheAgent(t *testing.T) {
	s := newService(t)
	var taken net.Listener
	var err error
	s.ns.Do(t, func() { taken, err = net.Listen("tcp", metricsPort) })
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	s.start(testkit.Unit(t, agentUnit, "AmbientCapabilities"))
	s.hear("READY=1")
	fault := func() string {
		st, err := host.ReadStatus(t.Context(), filepath.Join(s.dir, "status.sock"))
		if err != nil {
			t.Fatal(err)
		}
		return st.MetricsError
	}
	testkit.Eventually(t, 10*time.Second, "status tells", func() bool {
		return strings.Contains(fault(), "address already in use")
	})
	taken.Close()
	testkit.Eventually(t, 30*time.Second, "the port is taken once it is free", func() bool { return fault() == "" })
	s.scrape()
	s.stop()
}

func TestWithoutTheUnitsCapabilitiesTheAgentSaysWhichIsMissing(t *testing.T) {
	all := testkit.Unit(t, agentUnit, "AmbientCapabilities")
	for _, missing := range all {
		t.Run(missing, func(t *testing.T) {
			s := newService(t)
			s.start(slices.DeleteFunc(slices.Clone(all), func(c string) bool { return c == missing }))
			if _, err := s.cmd.Process.Wait(); err != nil {
				t.Fatal(err)
			}
			testkit.Eventually(t, 5*time.Second, "the missing capability is named", func() bool {
				return strings.Contains(s.log.String(), missing)
			})
		})
	}
}

// real builds the program as it is shipped, not under a test's detectors.
func (s *service) real() {
	s.t.Helper()
	cmd := exec.Command("go", "build", "-o", s.me, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("go build: %v\n%s", err, out)
	}
}

func TestTheAgentMakesNoSystemCallThatTheUnitForbids(t *testing.T) {
	s := newService(t)
	s.real()
	trace := filepath.Join(s.dir, "trace")
	s.wrapper = testkit.Strace(trace)
	s.start(testkit.Unit(t, agentUnit, "AmbientCapabilities"))
	s.hear("READY=1")
	s.scrape()
	s.configure("[[keep]]\nsource = \"192.0.2.99\"\n")
	var agent int
	pid := s.ns.Run(t, "pgrep", "-P", fmt.Sprint(s.cmd.Process.Pid))
	if _, err := fmt.Sscan(pid, &agent); err != nil {
		t.Fatalf("pgrep said %q: %v", pid, err)
	}
	for _, step := range []struct {
		signal syscall.Signal
		then   string
	}{{syscall.SIGHUP, "READY=1"}, {syscall.SIGTERM, "STOPPING=1"}} {
		if err := syscall.Kill(agent, step.signal); err != nil {
			t.Fatal(err)
		}
		s.hear(step.then)
	}
	if err := s.cmd.Wait(); err != nil {
		t.Error(err)
	}
	testkit.CheckTrace(t, trace, s.me, agentUnit)
}

func TestTheAgentLivesInTheUnitsFileSystem(t *testing.T) {
	s := newService(t)
	s.real()
	s.wrapper = testkit.Sandbox(s.dir)
	s.start(testkit.Unit(t, agentUnit, "AmbientCapabilities"))
	s.hear("READY=1")
	s.scrape()
	inside := fmt.Sprintf("/proc/%d/root", s.cmd.Process.Pid)
	if err := os.WriteFile(inside+"/etc/postern-test", nil, 0o600); !errors.Is(err, syscall.EROFS) {
		t.Errorf("the sandbox is none: %v", err)
	}
	s.configure("[[keep]]\nsource = \"192.0.2.99\"\n")
	s.signal(syscall.SIGHUP)
	s.hear("RELOADING=1")
	s.hear("READY=1")
	if !strings.Contains(s.rules(), "192.0.2.99") {
		t.Error("the keep rule was not taken over")
	}
	s.stop()
	if _, err := os.Stat(filepath.Join(s.state, "sessions.json")); err != nil {
		t.Errorf("the state was not written: %v", err)
	}
	if strings.Contains(s.log.String(), "level=ERROR") {
		t.Error("it complained")
	}
}

// TestTheUnitsRightsSufficeForEachBackendsPrograms is about what the iptables backend
// runs: root's programs, which expect to be root.
func TestTheUnitsRightsSufficeForEachBackendsPrograms(t *testing.T) {
	lock := filepath.Join(t.TempDir(), "lock")
	if err := os.WriteFile(lock, nil, 0o640); err != nil { // as tmpfiles.d makes it
		t.Fatal(err)
	}
	if err := os.Chmod(lock, 0o640); err != nil {
		t.Fatal(err)
	}
	ns := testkit.Netns(t)
	const script = `touch /run/xtables.lock && mount --bind "$0" /run/xtables.lock &&
mount -o remount,bind,ro /run/xtables.lock && exec "$@"`
	for _, program := range []string{"iptables-legacy", "ip6tables-legacy", "iptables-nft", "ip6tables-nft"} {
		for _, arguments := range [][]string{{"-w", "-N", "POSTERN-TEST"}, {"-w", "-I", "INPUT", "-j", "POSTERN-TEST"}} {
			ns.Run(t, "unshare", slices.Concat([]string{"--mount", "sh", "-c", script, lock},
				testkit.Setpriv(account, testkit.Unit(t, agentUnit, "AmbientCapabilities")),
				[]string{"env", "PATH=/usr/sbin:/sbin:/usr/bin:/bin", program}, arguments)...)
		}
		if got := ns.Run(t, program+"-save"); !strings.Contains(got, "-A INPUT -j POSTERN-TEST") {
			t.Errorf("%s did nothing:\n%s", program, got)
		}
	}
	names := ns.Run(t, "unshare", slices.Concat([]string{"--mount"},
		testkit.Setpriv(account, testkit.Unit(t, agentUnit, "AmbientCapabilities")),
		[]string{"cat", "/proc/thread-self/net/ip_tables_names"})...)
	if !strings.Contains(names, "filter") {
		t.Errorf("the legacy tables are %q", names)
	}
	if groups := testkit.Unit(t, agentUnit, "SupplementaryGroups"); !slices.Equal(groups, []string{"root"}) {
		t.Errorf("the unit's groups are %v: testkit.Setpriv gives others", groups)
	}
}
