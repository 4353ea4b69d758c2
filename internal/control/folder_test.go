package control_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/control/controltest"
	"github.com/postern-sdp/postern/spa"
)

func join(t *testing.T, c *controltest.Controller) *control.Enrolled {
	t.Helper()
	e, err := control.Join(t.Context(), control.JoinConfig{
		Token: c.Token(control.RoleClient), Role: control.RoleClient, Name: "laptop",
		Folder: filepath.Join(t.TempDir(), "deep", "identity"),
	})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestAnEnrolledIdentityIsPrivateAndLoadsAgain(t *testing.T) {
	c := controltest.New(t)
	e := join(t, c)
	loaded, err := control.LoadIdentity(e.Folder())
	if err != nil {
		t.Fatal(err)
	}
	if loaded.ID != e.ID || loaded.Name != "laptop" || loaded.Role != control.RoleClient ||
		!loaded.Leaf().Equal(e.Leaf()) || !loaded.Authority.Equal(c.Authority.Root) {
		t.Errorf("loaded %+v, want what was saved", loaded)
	}
	client, err := loaded.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	client.Close()
	if runtime.GOOS == "windows" {
		return
	}
	err = filepath.WalkDir(e.Folder(), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %o, want %o", path, info.Mode().Perm(), want)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestADamagedOrNewerIdentityIsRefusedAndKept(t *testing.T) {
	e := join(t, controltest.New(t))
	path := filepath.Join(e.Folder(), "identity.json")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		content string
		want    error
	}{
		"newer":         {strings.Replace(string(good), `"version": 1`, `"version": 2`, 1), control.ErrNewer},
		"cut":           {string(good[:len(good)/2]), control.ErrDamaged},
		"empty":         {"", control.ErrDamaged},
		"bad secret":    {strings.Replace(string(good), "knock-secret:", "knock-secret:zz", 1), control.ErrDamaged},
		"other device":  {strings.Replace(string(good), e.ID.String(), strings.Repeat("ab", 16), 1), control.ErrDamaged},
		"no controller": {strings.Replace(string(good), controltest.Name, "", 1), control.ErrDamaged},
	} {
		if test.content == string(good) {
			t.Fatalf("%s: nothing was changed", name)
		}
		os.WriteFile(path, []byte(test.content), 0o600)
		_, err := control.LoadIdentity(e.Folder())
		if !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", name, err, test.want)
		}
		if now, _ := os.ReadFile(path); string(now) != test.content {
			t.Errorf("%s: the file was changed", name)
		}
		if err != nil && strings.Contains(err.Error(), "knock-secret") {
			t.Errorf("%s: the error quotes the secret: %v", name, err)
		}
	}
	os.WriteFile(path, good, 0o600)
	// Hints may be damaged: they cost a retry at most.
	os.WriteFile(filepath.Join(e.Folder(), "contact.json"), []byte("{"), 0o600)
	if _, err := control.LoadIdentity(e.Folder()); err != nil {
		t.Error(err)
	}
	if _, err := control.LoadIdentity(t.TempDir()); !errors.Is(err, control.ErrNotEnrolled) && runtime.GOOS != "windows" {
		if !errors.Is(err, control.ErrWideFolder) {
			t.Errorf("empty folder: got %v", err)
		}
	}
	if _, err := control.LoadIdentity(filepath.Join(t.TempDir(), "no")); !errors.Is(err, control.ErrNotEnrolled) {
		t.Errorf("no folder: got %v", err)
	}
}

func TestAFailedEnrolmentLeavesNothingBehind(t *testing.T) {
	for name, change := range map[string]func(c *controltest.Controller, j *control.JoinConfig){
		"nobody answers": func(c *controltest.Controller, j *control.JoinConfig) {
			c.Set(func(c *controltest.Controller) { c.Lose = 100 })
		},
		"refused": func(c *controltest.Controller, j *control.JoinConfig) {
			c.Handle(control.PathEnroll, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(403) })
		},
		"nonsense": func(c *controltest.Controller, j *control.JoinConfig) {
			c.Handle(control.PathEnroll, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "{}") })
		},
		"identity of another authority": func(c *controltest.Controller, j *control.JoinConfig) {
			other := controltest.New(t)
			other.Token(control.RoleClient)
			c.Handle(control.PathEnroll, func(w http.ResponseWriter, r *http.Request) {
				other.ServeAnyToken(w, r)
			})
		},
		"another role": func(c *controltest.Controller, j *control.JoinConfig) { j.Role = control.RoleHost },
		"wrong pin":    func(c *controltest.Controller, j *control.JoinConfig) { j.Token.RootPin = [32]byte{1} },
	} {
		t.Run(name, func(t *testing.T) {
			c := controltest.New(t)
			parent := t.TempDir()
			j := control.JoinConfig{
				Token: c.Token(control.RoleClient), Role: control.RoleClient, Timeout: 200 * time.Millisecond,
				Folder: filepath.Join(parent, "identity"),
			}
			change(c, &j)
			if _, err := control.Join(t.Context(), j); err == nil {
				t.Fatal("enrolled")
			}
			if left, _ := os.ReadDir(parent); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestASaveThatFailsHalfWayLeavesNothingBehind(t *testing.T) {
	e := join(t, controltest.New(t))
	folder := filepath.Join(t.TempDir(), "identity")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	// A folder in the place of the last file.
	if err := os.MkdirAll(filepath.Join(folder, "cert.pem", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := control.SaveIdentity(folder, e); err == nil {
		t.Fatal("saved")
	}
	left, err := os.ReadDir(folder)
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestADeviceIsNotEnrolledTwice(t *testing.T) {
	c := controltest.New(t)
	e := join(t, c)
	before, _ := os.ReadFile(filepath.Join(e.Folder(), "key.pem"))
	_, err := control.Join(t.Context(), control.JoinConfig{
		Token: c.Token(control.RoleClient), Role: control.RoleClient, Folder: e.Folder(),
	})
	if !errors.Is(err, control.ErrEnrolled) {
		t.Errorf("got %v, want %v", err, control.ErrEnrolled)
	}
	if err := control.SaveIdentity(e.Folder(), e); !errors.Is(err, control.ErrEnrolled) {
		t.Errorf("got %v, want %v", err, control.ErrEnrolled)
	}
	if after, _ := os.ReadFile(filepath.Join(e.Folder(), "key.pem")); !bytes.Equal(before, after) {
		t.Error("the key was overwritten")
	}
}

// The controller's answer to an enrolment may get lost: the token is used by then.
func TestALostEnrolmentAnswerIsAskedForAgain(t *testing.T) {
	c := controltest.New(t)
	lose := true
	c.Handle(control.PathEnroll, func(w http.ResponseWriter, r *http.Request) {
		c.Handle(control.PathEnroll, nil)
		if lose {
			c.ServeHTTP(&lost{header: http.Header{}}, r) // redeems the token
			panic(http.ErrAbortHandler)
		}
	})
	if e := join(t, c); e.ID.IsZero() {
		t.Error("no identity")
	}
}

type lost struct{ header http.Header }

func (l *lost) Header() http.Header         { return l.header }
func (l *lost) Write(b []byte) (int, error) { return len(b), nil }
func (l *lost) WriteHeader(int)             {}

func TestACertificateIsRenewedAndStored(t *testing.T) {
	c := controltest.New(t)
	e := join(t, c)
	old := e.Leaf()
	if e.RenewDue(time.Now()) {
		t.Error("a fresh certificate is due")
	}
	if !e.RenewDue(old.NotBefore.Add(old.NotAfter.Sub(old.NotBefore) * 2 / 3)) {
		t.Error("at two thirds of its life it is not due")
	}
	client, err := e.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := e.Renew(t.Context(), client); err != nil {
		t.Fatal(err)
	}
	loaded, err := control.LoadIdentity(e.Folder())
	if err != nil {
		t.Fatal(err)
	}
	if e.Leaf().Equal(old) || !loaded.Leaf().Equal(e.Leaf()) {
		t.Error("the fresh certificate is not the one in use and stored")
	}
	// One for another key must not replace it.
	c.Handle(control.PathRenew, func(w http.ResponseWriter, r *http.Request) {
		other := c.Authority.Server(control.RoleClient, e.ID, time.Now().Add(-time.Minute), time.Now().Add(time.Hour))
		fmt.Fprintf(w, `{"certificates":["%s"]}`, b64(other.Certificate[0]))
	})
	if err := e.Renew(t.Context(), client); !errors.Is(err, control.ErrCertificate) {
		t.Errorf("got %v, want %v", err, control.ErrCertificate)
	}
}

func TestTheControllersClockIsRemembered(t *testing.T) {
	c := controltest.New(t)
	e := join(t, c)
	c.Set(func(c *controltest.Controller) { c.Skew = 40 * time.Second })
	c.Roll()
	if _, err := e.Knock(t.Context(), e.KnockConfig(spa.KindControl)); err != nil {
		t.Fatal(err)
	}
	loaded, err := control.LoadIdentity(e.Folder())
	if err != nil {
		t.Fatal(err)
	}
	if wrong := loaded.Offset() - 40*time.Second; wrong.Abs() > time.Second {
		t.Errorf("remembered %s, want 40s", loaded.Offset())
	}
}

func TestAnIdentityDoesNotPrintItsSecrets(t *testing.T) {
	c := controltest.New(t)
	e := join(t, c)
	file, _ := os.ReadFile(filepath.Join(e.Folder(), "identity.json"))
	_, secret, ok := strings.Cut(string(file), "knock-secret:")
	if !ok {
		t.Fatal("no secret in the file")
	}
	secret = secret[:16]
	key := e.TLSCertificate().PrivateKey
	d := fmt.Sprintf("%v", key)[2:14]
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
		fmt.Fprintf(&out, verb, e)
		fmt.Fprintf(&out, verb, e.KnockConfig(spa.KindControl))
	}
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "e", e)
	for _, leak := range []string{secret, d} {
		if strings.Contains(out.String(), leak) {
			t.Errorf("printed %q", leak)
		}
	}
}
