package sshconfig

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

func sample() Config {
	return Config{
		Command:  Command([]string{"/opt/my tools/100%/it's/postern", "connect", "--stdio", "--"}, false),
		Services: []string{"web", "db"}, Domain: "postern.internal",
	}
}

// configurations of people's, all of which have to be the same afterwards.
func configurations() map[string]string {
	return map[string]string{
		"empty": "", "no end of line": "Host a\n\tUser me", "CRLF": "Host a\r\n\tUser me\r\n",
		"a Match block last": "User all\nMatch host x\n\tUser me\n", "comments": "# Include postern.conf\n\n\n",
		"something like it": "Include postern.conf.old\nInclude  postern.conf\n",
	}
}

func TestUninstallLeavesTheConfigurationByteForByteAsItWas(t *testing.T) {
	for name, text := range configurations() {
		for _, linked := range []bool{false, true} {
			if linked && runtime.GOOS == "windows" {
				continue // links take an administrator there
			}
			f := At(filepath.Join(t.TempDir(), "ssh", "config"))
			path := f.Config
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if linked { // as keepers of dot files have it
				path = filepath.Join(t.TempDir(), "dotfiles-ssh")
				if err := os.Symlink(path, f.Config); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
				t.Fatal(err)
			}
			for range 2 { // the second time changes nothing
				if _, err := f.Install(sample()); err != nil {
					t.Fatal(err)
				}
			}
			between, err := os.ReadFile(path)
			if err != nil || !strings.HasSuffix(string(between), text) || bytes.Count(between, []byte("\n")) != strings.Count(text, "\n")+1 {
				t.Errorf("%s: installed: %q, %v", name, between, err)
			}
			if changed, err := f.Uninstall(); err != nil || !changed {
				t.Errorf("%s: uninstall: %v, %v", name, changed, err)
			}
			after, err := os.ReadFile(path)
			if err != nil && !(text == "" && !linked && errors.Is(err, fs.ErrNotExist)) || string(after) != text {
				t.Errorf("%s: after: %q, %v, want %q", name, after, err, text)
			}
			if info, err := os.Stat(path); err == nil && runtime.GOOS != "windows" && info.Mode().Perm() != 0o640 {
				t.Errorf("%s: mode is %o", name, info.Mode().Perm())
			}
			if info, err := os.Lstat(f.Config); err == nil && (info.Mode()&fs.ModeSymlink != 0) != linked {
				t.Errorf("%s: the link is gone", name)
			}
			if _, err := os.Stat(f.Postern); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: our file is left: %v", name, err)
			}
		}
	}
}

func TestAFolderThatCannotBeWrittenIsAnErrorAndNoChange(t *testing.T) {
	dir := t.TempDir()
	f := At(filepath.Join(dir, "config"))
	if err := os.WriteFile(f.Config, []byte("User me\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(f.Postern, 0o700); err != nil { // in the way of our file
		t.Fatal(err)
	}
	if _, err := f.Install(sample()); err == nil {
		t.Error("no error")
	}
	if got, _ := os.ReadFile(f.Config); string(got) != "User me\n" {
		t.Errorf("the configuration is %q", got)
	}
}

// ssh itself says what it reads.
func TestSSHReadsWhatIsWritten(t *testing.T) {
	f := At(filepath.Join(t.TempDir(), "config"))
	if err := os.WriteFile(f.Config, []byte("Compression yes\nHost x\n\tUser mine\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Install(sample()); err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string][]string{
		"web": {"hostname web.postern.internal", "hostkeyalias web.postern.internal", "checkhostip no", "compression yes",
			`proxycommand '/opt/my tools/100%%/it'\''s/postern' connect --stdio -- web`},
		"other.postern.internal": {"hostname other.postern.internal", "compression yes",
			`proxycommand '/opt/my tools/100%%/it'\''s/postern' connect --stdio -- '%h'`},
		"x": {"user mine", "compression yes"},
	} {
		out, err := exec.CommandContext(t.Context(), "ssh", "-G", "-F", f.Config, host).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		lines := strings.Split(string(out), "\n")
		for _, w := range want {
			if !slices.Contains(lines, w) {
				t.Errorf("%s: %q is missing in:\n%s", host, w, out)
			}
		}
		if host == "x" && strings.Contains(string(out), "proxycommand") {
			t.Errorf("another host goes through Postern:\n%s", out)
		}
	}
}

func TestAShellReadsACommandAsItWasMeant(t *testing.T) {
	for _, word := range []string{"plain", "two words", "it's", `"quoted"`, "$HOME`id`", "100%", "a;b&c|d", `back\slash`, "new\nline", "ü"} {
		line := strings.ReplaceAll(Command([]string{"printf", "%s", word}, false), "%%", "%")
		out, err := exec.CommandContext(t.Context(), "sh", "-c", line).Output()
		if err != nil || string(out) != word {
			t.Errorf("%q became %q, %v", word, out, err)
		}
	}
	for _, path := range []string{`C:\Program Files\postern.exe`, `C:\bin\postern.exe`} { // sh is what the ssh of Git for Windows has
		line := strings.ReplaceAll(Command([]string{"printf", "%s", path}, true), "%%", "%")
		out, err := exec.CommandContext(t.Context(), "sh", "-c", line).Output()
		if want := strings.ReplaceAll(path, `\`, "/"); err != nil || string(out) != want {
			t.Errorf("on Windows: %s became %q, %v", line, out, err)
		}
	}
}

// The name of a host may come from anybody, as the address of a git submodule does.
func TestNoNameOfAHostRunsAnythingInTheShell(t *testing.T) {
	dir := t.TempDir()
	f := At(filepath.Join(dir, "config"))
	bad := filepath.Join(dir, "bad")
	for _, windows := range []bool{false, true} { // with sh, as the ssh of Git for Windows
		c := Config{Command: Command([]string{"printf", "<%s>"}, windows), Domain: "postern.internal", Windows: windows}
		for _, name := range []string{"plain", "$(touch bad)", "`touch bad`", "a;touch bad;", "a'$(touch bad)'", "a\"$(touch bad)\"",
			"a|touch bad", "a&touch bad&", "a\\'$(touch bad)", "a' 'b", "a<bad", "a>bad", "*", "~", "a b", "%TEMP%"} {
			host := name + ".postern.internal"
			// ssh itself refuses most of these today, but not as the name that a section gives.
			config := "Match final all\nHost hostile\n\tHostName " + sshWord(host) + "\n"
			if err := os.WriteFile(f.Config, []byte(config), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := f.Install(c); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), "ssh", "-G", "-F", f.Config, "hostile")
			out, err := cmd.Output()
			if err != nil || !strings.Contains(string(out), "hostname "+host+"\n") {
				t.Fatalf("%s: %v: %s", host, err, out)
			}
			proxied := strings.Contains(string(out), "proxycommand")
			if !proxied && name != "plain" {
				continue // so nothing is run
			}
			cmd = exec.CommandContext(t.Context(), "ssh", "-F", f.Config, "-o", "BatchMode=yes", "-o", "ConnectTimeout=1", "hostile")
			cmd.Dir = dir
			said, _ := cmd.CombinedOutput() // it cannot connect
			if name == "plain" && !strings.Contains(string(out), "printf") {
				t.Errorf("%s does not go through Postern", host)
			}
			if _, err := os.Stat(bad); err == nil {
				t.Errorf("%q was run; ssh said %s", name, said)
				os.Remove(bad)
			}
		}
	}
}

// sshWord quotes a word of ssh's configuration.
func sshWord(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%").Replace(s) + `"`
}

func TestNamesThatAreThePersonsOwnStayTheirs(t *testing.T) {
	home := t.TempDir()
	t.Setenv("HOME", home) // this package's idea of it; ssh goes by the account
	dir := filepath.Join(home, ".ssh")
	f := At(filepath.Join(dir, "config"))
	os.MkdirAll(filepath.Join(dir, "config.d"), 0o700)
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("config.d/work", "Host forge\n\tUser git\n")
	write("config", "Include "+dir+"/config.d/*\nHost web *.example\n\tUser me\nHost\t\"db\"\n\tPort 2200\n# Host notes\n"+
		"HOST=mail\n\tUser me\nHost build-?\n\tUser ci\nMatch originalhost wiki\n\tUser me\n"+
		"Host *\n\tControlPath "+dir+"/%C\n\tServerAliveInterval 20\n\tLocalCommand echo %n\n")
	all := []string{"web", "db", "notes", "mail", "forge", "build-7", "build-77", "wiki", "ssh", "a.b", "h"}
	want := []string{"web", "db", "mail", "forge", "build-7", "wiki"}
	c := sample()
	c.Services = all
	for _, installed := range []bool{false, true} { // our own file does not count
		got, err := f.Settle(t.Context(), c)
		if err != nil || !slices.Equal(got.Left, want) {
			t.Errorf("installed %v: got %q, %v; want %q", installed, got.Left, err, want)
		}
		if _, err := f.Install(got); err != nil {
			t.Fatal(err)
		}
		if text := got.String(); strings.Contains(text, "Host web") || !strings.Contains(text, "Host notes notes.postern.internal") {
			t.Errorf("the file:\n%s", text)
		}
	}
	write("config", "Host web\nHost\t\"db\"\nNoSuchOption yes\n") // which ssh does not read
	if got, err := f.Settle(t.Context(), c); err != nil || !slices.Equal(got.Left, []string{"web", "db"}) {
		t.Errorf("with a configuration that ssh refuses: %q, %v", got.Left, err)
	}
}

func TestTheFileFollowsTheServices(t *testing.T) {
	f := At(filepath.Join(t.TempDir(), "config"))
	now := func() string {
		b, err := os.ReadFile(f.Postern)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		return string(b)
	}
	refresh := func(want bool, services ...string) {
		t.Helper()
		c := Config{Services: services, Domain: "postern.internal"}
		if changed, err := f.Refresh(t.Context(), c); err != nil || changed != want {
			t.Errorf("%q: %v, %v", services, changed, err)
		}
	}
	refresh(false, "web")
	if now() != "" {
		t.Error("a file was made that nobody installed")
	}
	os.WriteFile(f.Config, []byte("Host mine\n\tUser me\n"), 0o600)
	c := sample()
	c.Identity = "/home/me/work"
	if _, err := f.Install(c); err != nil {
		t.Fatal(err)
	}
	before := now()
	refresh(false, "db", "web") // the order says nothing
	if now() != before {
		t.Error("it was written for nothing")
	}
	refresh(true, "forge", "web", "mine")
	c.Services, c.Left = []string{"forge", "web", "mine"}, []string{"mine"}
	if now() != c.String() {
		t.Errorf("it is\n%s\nwant\n%s", now(), c.String())
	}
	refresh(false, "web", "mine", "forge")
	if identity, installed := f.Bound(); identity != c.Identity || !installed {
		t.Errorf("bound to %q, %v", identity, installed)
	}
	os.WriteFile(f.Postern, []byte(before+"# mine\n"), 0o600)
	refresh(false, "new")
}

func FuzzIncludeAndExcludeLeaveNothing(f *testing.F) {
	for _, text := range configurations() {
		f.Add([]byte(text), "postern.conf")
	}
	f.Add([]byte("Include postern.conf\nUser x\n"), "/a b/postern.conf")
	f.Fuzz(func(t *testing.T, config []byte, path string) {
		if strings.ContainsAny(path, "\r\n\"") {
			return // no name of a file of ours
		}
		with := Include(config, path)
		if bytes.Equal(with, config) {
			return // it was there
		}
		if got := Exclude(with, path); !bytes.Equal(got, config) {
			t.Errorf("%q became %q", config, got)
		}
		if again := Include(with, path); !bytes.Equal(again, with) {
			t.Errorf("included twice: %q", again)
		}
	})
}
