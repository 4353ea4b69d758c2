package sshconfig

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func sample() Config {
	return Config{
		Command:  []string{"/opt/my tools/100%/it's/postern", "connect", "--stdio", "--"},
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
			if info, err := os.Stat(path); err == nil && info.Mode().Perm() != 0o640 {
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
			`proxycommand '/opt/my tools/100%%/it'\''s/postern' connect --stdio -- %h`},
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
		line := strings.ReplaceAll(Proxy([]string{"printf", "%s", word}, "", false), "%%", "%")
		out, err := exec.CommandContext(t.Context(), "sh", "-c", line).Output()
		if err != nil || string(out) != word {
			t.Errorf("%q became %q, %v", word, out, err)
		}
	}
	if got := Proxy([]string{`C:\Program Files\postern.exe`, "connect"}, "%h", true); got != `"C:\Program Files\postern.exe" connect %h` {
		t.Errorf("on Windows: %s", got)
	}
}

func TestNamesThatAreThePersonsOwnAreFound(t *testing.T) {
	config := "host web *.example\nHost\t\"db\"\n# Host forge\nHOST=mail\nHostName ssh\n"
	got := Taken([]byte(config), []string{"web", "db", "forge", "mail", "ssh"})
	if !slices.Equal(got, []string{"web", "db", "mail"}) {
		t.Errorf("got %q", got)
	}
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
