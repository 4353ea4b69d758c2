package service

import (
	"encoding/xml"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// hard is a specification with all that the three formats have to quote.
var hard = Spec{
	Program: `/home/O'Brien & Söhne/50% of $HOME\bin/"postern" <1>`,
	Args:    []string{"--identity", "/home/a b/$id %h;#", "up", "", `back\slash "q"`, "--x=${Y}"},
	Log:     "/Users/a & b/Library/Logs/postern.log",
}

// hardWindows leaves out what Task refuses.
var hardWindows = Spec{
	Program: `C:\Program Files\R&D "x"\postern.exe`,
	Args: []string{"service", "run", "--log", `C:\Users\a b\`, "--", "up", "", `q"uote`, `\"`, `end\\`,
		"100%", "<&>"},
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if os.Getenv("POSTERN_UPDATE") != "" {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != strings.ReplaceAll(string(want), "\r\n", "\n") {
		t.Errorf("%s is not what is written (POSTERN_UPDATE=1 writes it anew):\n%s", path, got)
	}
}

func TestFilesAreAsReviewed(t *testing.T) {
	text, err := Unit(Spec{Program: "/home/Jo & Söhne/50% of $HOME;#/postern", Args: hard.Args}, "%E/postern")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "hard.service", text)
	golden(t, "hard.plist", Plist(hard))
	if text, err = Task(hardWindows, "S-1-5-21-1-2-3-1001"); err != nil {
		t.Fatal(err)
	}
	golden(t, "hard.xml", text)
}

// The unit in the packages is the same for everybody.
func TestThePackagesHaveTheSameUnit(t *testing.T) {
	got, err := Unit(Spec{Program: "/usr/bin/postern", Args: []string{"up"}}, "%E/postern")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "../../../configs/systemd/user/postern.service", got)
}

func TestAPropertyListSaysWhatWasMeant(t *testing.T) {
	var got struct {
		Dict struct {
			Keys  []string `xml:"key"`
			Array struct {
				Strings []string `xml:"string"`
			} `xml:"array"`
			Strings []string `xml:"string"`
		} `xml:"dict"`
	}
	if err := xml.Unmarshal([]byte(Plist(hard)), &got); err != nil {
		t.Fatal(err)
	}
	if want := append([]string{hard.Program}, hard.Args...); !slices.Equal(got.Dict.Array.Strings, want) {
		t.Errorf("got %q, want %q", got.Dict.Array.Strings, want)
	}
	if want := []string{label, "Background", hard.Log, hard.Log}; !slices.Equal(got.Dict.Strings, want) {
		t.Errorf("got %q, want %q", got.Dict.Strings, want)
	}
}

func TestATaskSaysWhatWasMeant(t *testing.T) {
	text, err := Task(hardWindows, "S-1-5-21-1")
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		User    string `xml:"Principals>Principal>UserId"`
		Command string `xml:"Actions>Exec>Command"`
		Line    string `xml:"Actions>Exec>Arguments"`
	}
	// The decoder knows no UTF-16, and this text is not in it.
	if err := xml.Unmarshal([]byte(strings.Replace(text, ` encoding="UTF-16"`, "", 1)), &got); err != nil {
		t.Fatal(err)
	}
	if got.User != "S-1-5-21-1" || got.Command != hardWindows.Program {
		t.Errorf("got %+v", got)
	}
	if words := windowsWords(got.Line); !slices.Equal(words, hardWindows.Args) {
		t.Errorf("%s\ngot  %q\nwant %q", got.Line, words, hardWindows.Args)
	}
}

// windowsWords takes a command line apart by the rules that Microsoft documents for C
// programs; on Windows itself the system's own function is asked as well.
func windowsWords(line string) []string {
	var words []string
	for line = strings.TrimLeft(line, " "); line != ""; line = strings.TrimLeft(line, " ") {
		var word strings.Builder
		quoted := false
		for line != "" && (quoted || line[0] != ' ') {
			rest := strings.TrimLeft(line, `\`)
			slashes := len(line) - len(rest)
			line = rest
			if !strings.HasPrefix(line, `"`) {
				word.WriteString(strings.Repeat(`\`, slashes))
				if slashes == 0 {
					word.WriteByte(line[0])
					line = line[1:]
				}
				continue
			}
			word.WriteString(strings.Repeat(`\`, slashes/2))
			if slashes%2 == 1 {
				word.WriteByte('"')
			} else {
				quoted = !quoted
			}
			line = line[1:]
		}
		words = append(words, word.String())
	}
	return words
}

func TestWhatCannotBeWrittenIsRefused(t *testing.T) {
	for _, goos := range []string{"linux", "darwin", "windows"} {
		s, err := newService(goos, "/h", "/c", "501")
		if err != nil {
			t.Fatal(err)
		}
		program, err := os.Executable() // absolute on this system
		if err != nil {
			t.Fatal(err)
		}
		for name, spec := range map[string]Spec{
			"a line of its own": {Program: program, Args: []string{"x\nExecStartPre=/bin/evil"}},
			"a null byte":       {Program: program, Args: []string{"x\x00"}},
			"no UTF-8":          {Program: program, Args: []string{"\xff"}},
			"control in log":    {Program: program, Log: "/x\r"},
		} {
			if text, err := s.Text(spec); !errors.Is(err, ErrText) || text != "" {
				t.Errorf("%s: %s: %q, %v", goos, name, text, err)
			}
		}
		if _, err := s.Text(Spec{Program: "bin/postern"}); !errors.Is(err, ErrRelative) {
			t.Errorf("%s: %v", goos, err)
		}
	}
	for _, args := range [][]string{{"%PATH%"}, {"a%b", "c%d"}, {"$(Arg0)"}} {
		if _, err := Task(Spec{Program: `C:\p.exe`, Args: args}, "S-1"); !errors.Is(err, ErrText) {
			t.Errorf("%q: %v", args, err)
		}
	}
	for _, program := range []string{`/a"b`, "/a'b", `/a\b`} { // systemd would refuse the unit
		if _, err := Unit(Spec{Program: program}, ""); !errors.Is(err, ErrText) {
			t.Errorf("%q: %v", program, err)
		}
	}
	if _, err := newService("plan9", "/h", "/c", "u"); !errors.Is(err, ErrNoManager) {
		t.Errorf("plan9: %v", err)
	}
}
