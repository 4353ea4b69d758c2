package api

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/testkit"
)

// child is set in the process that plays a user without rights.
const child = "POSTERN_TEST_ADMIN_SOCKET"

func TestMain(m *testing.M) {
	if path := os.Getenv(child); path != "" {
		_, err := NewAdmin(path).Status(context.Background())
		if errors.Is(err, ErrNoAccess) {
			os.Exit(0)
		}
		os.Stderr.WriteString(errors.Join(errors.New("not refused"), err).Error())
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// statusOnly is an administration that knows one answer.
type statusOnly struct{ Administration }

func (statusOnly) Status(context.Context) (Status, error) { return Status{Name: "gate.test"}, nil }

func (statusOnly) RemoveService(context.Context, string) (Cut, error) {
	return Cut{}, errors.New("a secret of the store")
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func serveAdmin(t *testing.T) (path string) {
	t.Helper()
	testkit.NoLeak(t)
	path = filepath.Join(t.TempDir(), "a.sock")
	s := &AdminServer{Path: path, Administration: statusOnly{}, Log: discard()}
	ctx, cancel := context.WithCancel(context.Background())
	l, err := s.Listen(ctx)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(path); err == nil {
			t.Error("the socket is still there")
		}
	})
	return path
}

func TestTheAdminSocketIsPrivate(t *testing.T) {
	path := serveAdmin(t)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %o, want 600", info.Mode().Perm())
	}
	if s, err := NewAdmin(path).Status(t.Context()); err != nil || s.Name != "gate.test" {
		t.Errorf("its own user: %v", err)
	}
}

// TestAStrangerIsRefusedWhateverTheMode: the kernel's word on who is at the other
// end counts, and not the file's mode alone.
func TestAStrangerIsRefusedWhateverTheMode(t *testing.T) {
	testkit.RequireRoot(t)
	path := serveAdmin(t)
	open := filepath.Dir(path)
	for ; open != os.TempDir() && open != "/"; open = filepath.Dir(open) {
		if err := os.Chmod(open, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(filepath.Dir(path), "child") // go test's own folder is private
	text, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, text, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), child+"="+path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("nobody's call: %v: %s", err, out)
	}
}

func TestASecondControllerIsNotLetOnTheSocket(t *testing.T) {
	path := serveAdmin(t)
	other := &AdminServer{Path: path, Log: discard()}
	if _, err := other.Listen(t.Context()); !errors.Is(err, ErrInUse) {
		t.Errorf("got %v, want ErrInUse", err)
	}
}

func TestAStaleSocketIsReplacedAndAFileIsNot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	s := &AdminServer{Path: path, Log: discard()}
	l, err := s.Listen(t.Context())
	if err != nil {
		t.Fatalf("a stale socket: %v", err)
	}
	l.Close()
	l.Close() // idempotent
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Listen(t.Context()); err == nil {
		t.Error("a file was taken for a socket")
	}
	if b, _ := os.ReadFile(path); string(b) != "mine" {
		t.Error("the file was changed")
	}
}

func TestNobodyThereIsTold(t *testing.T) {
	_, err := NewAdmin(filepath.Join(t.TempDir(), "none.sock")).Status(t.Context())
	if !errors.Is(err, ErrNotRunning) {
		t.Errorf("got %v, want ErrNotRunning", err)
	}
}

func TestAnInternalErrorIsNotTold(t *testing.T) {
	_, err := NewAdmin(serveAdmin(t)).RemoveService(t.Context(), "x")
	var status *control.StatusError
	if !errors.As(err, &status) || status.Status != http.StatusInternalServerError {
		t.Fatalf("got %v, want status 500", err)
	}
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("the caller was told %v", err)
	}
}

func TestABodyIsBoundedBeforeItIsParsed(t *testing.T) {
	parsed := 0
	mux := http.NewServeMux()
	handle(mux, "POST /x", discard(), func(context.Context, counting) (any, error) { parsed++; return empty{}, nil })
	for _, c := range []struct {
		name string
		body string
		want int
	}{
		{"whole", `{}`, 200},
		{"empty", ``, 200},
		{"largest", `"` + strings.Repeat("x", control.MaxBody-2) + `"`, 200},
		{"one more", `"` + strings.Repeat("x", control.MaxBody-1) + `"`, 413},
		{"endless", strings.Repeat("[", 3*control.MaxBody), 413},
		{"two", `{}{}`, 400},
		{"cut", `{"a":`, 400},
	} {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/x", strings.NewReader(c.body)))
		if w.Code != c.want {
			t.Errorf("%s: status %d, want %d", c.name, w.Code, c.want)
		}
	}
	if parsed != 3 {
		t.Errorf("%d bodies were parsed, want 3", parsed)
	}
}

// counting takes any JSON.
type counting struct{}

func (*counting) UnmarshalJSON([]byte) error { return nil }

func FuzzBody(f *testing.F) {
	for _, seed := range []string{
		`{"token":"00000000000000000000000000000001","name":"a","public_key":"AA==","signature":"AA=="}`,
		`{"session":"00"}`, `{"expires":"1h"}`, `[`, ``, `null`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, into := range []any{
			&control.EnrollRequest{}, &control.RenewRequest{}, &control.CloseRequest{},
			&TokenRequest{}, &ServiceRequest{}, &GrantRequest{}, &target{},
		} {
			if err := readBody(bytes.NewReader(b), into); err != nil && status(err) >= 500 {
				t.Errorf("bad input is blamed on the server: %v", err)
			}
		}
	})
}
