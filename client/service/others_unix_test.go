//go:build unix

package service

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf16"
)

// fakes puts programs of other systems on the path. They note what they are told in
// the file "told" beside them and keep their state in files, as their systems document
// it; that the systems do so is for their own machines to show.
func fakes(t *testing.T, programs map[string]string) (dir string, told func() []string) {
	t.Helper()
	dir = t.TempDir()
	t.Setenv("PATH", dir+":/usr/bin:/bin")
	for name, script := range programs {
		script = "#!/bin/sh\ncd '" + dir + "'\n" + `printf '%s\n' "${0##*/} $*" >>told` + "\n" + script
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return dir, func() []string {
		text, _ := os.ReadFile(filepath.Join(dir, "told"))
		os.Remove(filepath.Join(dir, "told"))
		return strings.Split(strings.TrimSpace(string(text)), "\n")
	}
}

func wantTold(t *testing.T, what string, err error, got []string, want ...string) {
	t.Helper()
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%s: %v\ngot  %q\nwant %q", what, err, got, want)
	}
}

const launchctl = `case $1 in
print) [ -e loaded ] || { echo "Could not find service" >&2; exit 113; }
	printf 'x = {\n\tstate = %s\n}\n' "$(cat loaded)" ;;
bootstrap) [ ! -e loaded ] || { echo "Bootstrap failed: 5" >&2; exit 5; }
	[ ! -e broken ] || { echo "no such domain" >&2; exit 125; }
	echo running >loaded ;;
bootout) rm loaded ;;
kickstart) echo running >loaded ;;
esac
`

func TestLaunchdIsToldWhatItNeeds(t *testing.T) {
	dir, told := fakes(t, map[string]string{"launchctl": launchctl})
	s, err := newService("darwin", filepath.Join(dir, "home"), "", "501")
	if err != nil {
		t.Fatal(err)
	}
	const target = "gui/501/" + label
	file := filepath.Join(dir, "home", "Library", "LaunchAgents", label+".plist")
	spec := Spec{Program: "/usr/local/bin/postern", Args: []string{"up"}, Log: "/dev/null"}
	look, enable := "launchctl print "+target, "launchctl enable "+target
	boot, out := "launchctl bootstrap gui/501 "+file, "launchctl bootout "+target

	wantTold(t, "install", s.Install(t.Context(), spec), told(), look, enable, boot)
	if text, err := os.ReadFile(file); err != nil || string(text) != Plist(spec) {
		t.Errorf("wrote %q, %v", text, err)
	}
	wantTold(t, "install again", s.Install(t.Context(), spec), told(), look, out, enable, boot)
	wantTold(t, "start again", s.Start(t.Context()), told(), look)
	os.WriteFile(filepath.Join(dir, "loaded"), []byte("not running"), 0o600)
	if state, err := s.Status(t.Context()); err != nil || !state.Installed || state.Running {
		t.Errorf("ended by itself: %+v, %v", state, err)
	}
	told()
	wantTold(t, "start what ended", s.Start(t.Context()), told(), look, "launchctl kickstart "+target)
	wantTold(t, "stop", s.Stop(t.Context()), told(), look, out)
	wantTold(t, "stop again", s.Stop(t.Context()), told(), look)
	wantTold(t, "start", s.Start(t.Context()), told(), look, boot)
	if state, err := s.Status(t.Context()); err != nil || !state.Running {
		t.Errorf("%+v, %v", state, err)
	}
	told()
	wantTold(t, "uninstall", s.Uninstall(t.Context()), told(), look, out)
	if exists(file) {
		t.Error("the agent's file is there")
	}
	os.WriteFile(filepath.Join(dir, "broken"), nil, 0o600)
	err = s.Install(t.Context(), spec)
	if err == nil || !strings.Contains(err.Error(), "no such domain") || exists(file) {
		t.Errorf("a failed installation: %v; its file is there: %v", err, exists(file))
	}
}

const schtasks = `case $1 in
/Create) [ -s "$3" ] || exit 1; cp "$3" created; echo Ready >state ;;
/Run) echo Running >state ;;
/End) grep -q Running state || exit 1; echo Ready >state ;;
/Delete) rm state ;;
esac
`

func TestTheTaskSchedulerIsToldWhatItNeeds(t *testing.T) {
	dir, told := fakes(t, map[string]string{
		"schtasks.exe": schtasks, "powershell.exe": "cat state && printf '\\r\\n'",
	})
	s, err := newService("windows", "", filepath.Join(dir, "config"), "S-1-5-21-7")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "config", "postern", "service.xml")
	spec := Spec{Program: "/c/postern.exe", Args: []string{"up"}}
	const tn = " /TN Postern S-1-5-21-7"
	look := "powershell.exe -NoProfile -NonInteractive -Command (Get-ScheduledTask -TaskName 'Postern S-1-5-21-7').State"
	create := "schtasks.exe /Create /XML " + file + " /F" + tn
	start, stop := "schtasks.exe /Run"+tn, "schtasks.exe /End"+tn

	wantTold(t, "install", s.Install(t.Context(), spec), told(), create, look, start)
	wantTold(t, "stop", s.Stop(t.Context()), told(), look, stop)
	wantTold(t, "stop again", s.Stop(t.Context()), told(), look)
	wantTold(t, "start", s.Start(t.Context()), told(), start)
	if state, err := s.Status(t.Context()); err != nil || !state.Running || !state.Installed {
		t.Errorf("%+v, %v", state, err)
	}
	told()
	// The file is in the form that schtasks reads.
	text, err := os.ReadFile(filepath.Join(dir, "created"))
	if err != nil {
		t.Fatal(err)
	}
	var units []uint16
	for ; len(text) >= 2; text = text[2:] {
		units = append(units, binary.LittleEndian.Uint16(text))
	}
	want, _ := s.Text(spec)
	if got := string(utf16.Decode(units)); got != "\ufeff"+strings.ReplaceAll(want, "\n", "\r\n") {
		t.Errorf("the scheduler got %q", got)
	}
	wantTold(t, "uninstall", s.Uninstall(t.Context()), told(), look, stop, "schtasks.exe /Delete /F"+tn)
	if exists(file) || !errors.Is(s.Start(t.Context()), ErrNotInstalled) {
		t.Error("it is still installed")
	}
}
