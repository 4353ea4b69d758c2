package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postern-sdp/postern/client"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/control/controltest"
	"github.com/postern-sdp/postern/spa"
)

// person has a configuration folder of their own, and no identity named by hand.
type person struct {
	t    *testing.T
	home string
	env  []string // more of it
}

func newPerson(t *testing.T) *person { return &person{t: t, home: t.TempDir()} }

func (p *person) run(stdin string, args ...string) result {
	p.t.Helper()
	cmd := exec.CommandContext(p.t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), asCommand+"=1", quickExit, "POSTERN_IDENTITY=", "POSTERN_PROFILE=",
		"HOME="+p.home, "XDG_CONFIG_HOME="+p.home, "AppData="+p.home)
	cmd.Env = append(cmd.Env, p.env...)
	var out, talk bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &talk
	err := cmd.Run()
	if _, ok := err.(*exec.ExitError); err != nil && !ok {
		p.t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), talk.String()}
}

// enroll enrols at a controller of its own, with the arguments.
func (p *person) enroll(args ...string) result {
	p.t.Helper()
	c := controltest.New(p.t)
	c.AddHost()
	link, err := c.Token(control.RoleClient).Invitation()
	if err != nil {
		p.t.Fatal(err)
	}
	r := p.run(link, append([]string{"enroll", "-"}, args...)...)
	r.want(p.t, exitOK, "postern: enrolled at test.example")
	return r
}

// used is the profile and the device that a command uses.
func (p *person) used(args ...string) string {
	p.t.Helper()
	r := p.run("", append([]string{"status", "--local", "--json"}, args...)...)
	r.want(p.t, exitOK)
	var s struct{ Profile, Name string }
	if err := json.Unmarshal([]byte(r.out), &s); err != nil {
		p.t.Error(err)
	}
	return s.Profile + " " + s.Name
}

func (p *person) uses(want string, args ...string) {
	p.t.Helper()
	if got := p.used(args...); got != want {
		p.t.Errorf("%v uses %s, want %s", args, got, want)
	}
}

func TestSeveralIdentitiesOnOneDevice(t *testing.T) {
	p := newPerson(t)
	p.run("", "profile", "list").want(t, exitOK, "no identity yet", "hint: ")
	p.enroll("--name", "first")
	p.uses("default first")
	c, err := controltest.New(t).Token(control.RoleClient).Invitation()
	if err != nil {
		t.Fatal(err)
	}
	p.run(c, "enroll", "-").want(t, exitFailed, "already enrolled", "hint: ", "--profile NAME")
	p.enroll("--profile", "work", "--name", "second").want(t, exitOK, "hint: ", "postern profile use work")
	p.uses("default first")
	p.uses("work second", "--profile", "work")
	p.run("", "--profile", "work", "services").want(t, exitOK)

	p.env = []string{"POSTERN_PROFILE=work"}
	p.uses("work second")
	p.uses("default first", "--profile", "default")
	p.run("", "profile", "use", "work").want(t, exitOK, "hint: POSTERN_PROFILE is set")
	p.env = nil
	p.uses("work second")
	p.uses("default first", "--profile=default")
	if out := p.run("", "status").out; !strings.Contains(out, "profile      work") {
		t.Errorf("status does not tell the profile:\n%s", out)
	}

	p.run("", "profile", "rename", "work", "acme").want(t, exitOK)
	p.uses("acme second")
	r := p.run("", "profile", "list")
	r.want(t, exitOK)
	if !strings.Contains(r.out, "*  acme     second") || !strings.Contains(r.out, "   default  first") {
		t.Errorf("listed:\n%s", r.out)
	}
	var list []profileJSON
	err = json.Unmarshal([]byte(p.run("", "profile", "list", "--json").out), &list)
	if err != nil || len(list) != 2 ||
		list[0].Name != "default" || list[0].Current || !list[1].Current || list[1].Status.Name != "second" {
		t.Errorf("got %+v, %v", list, err)
	}
	if out := p.run("", "profile", "show", "default").out; !strings.Contains(out, "first") {
		t.Errorf("shows %s", out)
	}

	p.run("no\n", "profile", "remove", "acme").want(t, exitFailed, "for good", "nothing was changed")
	p.run("", "profile", "remove", "acme").want(t, exitFailed, "nothing was changed")
	p.uses("acme second")
	p.run("yes\n", "profile", "remove", "acme").want(t, exitOK, "removed", "hint: ", "device revoke")
	p.uses("default first")
	p.run("", "profile", "remove", "default", "--yes").want(t, exitOK)
	p.run("", "services").want(t, exitNotEnrolled)
}

// Without a profile that could be used, the one that was just enrolled is.
func TestTheFirstProfileIsInUse(t *testing.T) {
	p := newPerson(t)
	if r := p.enroll("--profile", "work", "--name", "only"); strings.Contains(r.talk, "profile use") {
		t.Errorf("it said:\n%s", r.talk)
	}
	p.uses("work only")
}

func TestAFolderNamedByHandComesBeforeAllProfiles(t *testing.T) {
	p := newPerson(t)
	p.enroll("--profile", "work", "--name", "profiled")
	folder := filepath.Join(t.TempDir(), "other")
	p.enroll("--identity", folder, "--name", "by-hand")
	p.uses(" by-hand", "--identity", folder)
	p.env = []string{"POSTERN_IDENTITY=" + folder, "POSTERN_PROFILE=work"}
	p.uses(" by-hand")
	p.env = p.env[:1]
	p.run("", "status", "--local", "--profile", "work").want(t, exitUsage, "two identities", "hint: ")
	p.env = nil
	p.uses("work profiled")
}

func TestWrongProfilesAreRefused(t *testing.T) {
	p := newPerson(t)
	for _, args := range [][]string{
		{"--profile", "../x", "services"}, {"profile", "use", "Work"}, {"profile", "use"}, {"profile", "rename", "a"},
		{"profile", "frobnicate"}, {"profile", "list", "--nope"}, {"profile", "show", "/etc"},
	} {
		r := p.run("", args...)
		r.want(t, exitUsage, "postern: ", "hint: ")
		if r.out != "" {
			t.Errorf("%v printed %q", args, r.out)
		}
	}
	for _, args := range [][]string{
		{"profile", "use", "nosuch"}, {"profile", "rename", "nosuch", "x"}, {"profile", "remove", "nosuch", "--yes"}, {"profile", "show"},
	} {
		p.run("", args...).want(t, exitFailed, "no such profile", "hint: postern profile list")
	}
	p.run("", "services", "--profile", "nosuch").want(t, exitNotEnrolled, "profiles", "nosuch", "hint: ")
	if _, err := os.Stat(filepath.Join(p.home, "postern")); err == nil {
		t.Error("something was made")
	}
}

func TestProfilesAndServicesComplete(t *testing.T) {
	p := newPerson(t)
	c := controltest.New(t)
	c.AddHost()
	link, err := c.Token(control.RoleClient).Invitation()
	if err != nil {
		t.Fatal(err)
	}
	p.run(link, "enroll", "-", "--profile", "work").want(t, exitOK)
	complete := func(want string, args ...string) {
		t.Helper()
		r := p.run("", append(args, "--generate-bash-completion")...)
		if r.code != exitOK || r.out != want || r.talk != "" {
			t.Errorf("%v: %d, %q, said %q; want %q", args, r.code, r.out, r.talk, want)
		}
	}
	complete("work\n", "--profile")
	complete("work\n", "services", "--profile")
	complete("work\n", "profile", "use")
	complete("", "connect") // nobody has asked for services yet
	p.run("", "services").want(t, exitOK)
	knocks := func() int { return c.Count(spa.KindAccess) + c.Count(spa.KindControl) }
	asked := knocks()
	for _, command := range []string{"connect", "knock"} {
		complete("echo\n", command)
		complete("", command, "echo")
	}
	complete("echo\n", "--profile", "work", "connect")
	complete("echo\n", "connect", "--profile", "work")
	complete("", "connect", "--", "echo")
	if r := p.run("", "connect", "--st", "--generate-bash-completion"); !strings.Contains(r.out, "--stdio") {
		t.Errorf("options: %q", r.out)
	}
	if n := knocks(); n != asked || asked == 0 {
		t.Errorf("completion knocked %d times", n-asked)
	}
}

// bash expands the words it is given to choose from.
func TestNoNameRunsInTheShellThatCompletesIt(t *testing.T) {
	p := newPerson(t)
	p.enroll()
	var list client.CachedList
	for _, name := range []string{"good", "$(touch bad)", "`id`", "a b", "-x", "", "a\nb", "~root", "*"} {
		list.Services.Services = append(list.Services.Services, client.Service{Name: name})
	}
	b, err := json.Marshal(list)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(p.home, "postern", "services.json"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	if r := p.run("", "connect", "--generate-bash-completion"); r.out != "good\n" {
		t.Errorf("suggested %q", r.out)
	}
}
