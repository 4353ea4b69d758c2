package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

type sample struct {
	Name   string   `toml:"name"`
	Port   uint16   `toml:"port"`
	Listen []string `toml:"listen"`
	Limits struct {
		Length duration `toml:"length"`
	} `toml:"limits"`
	Keep []struct {
		Source string `toml:"source"`
	} `toml:"keep"`
	hidden string
}

type duration time.Duration

func (d *duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = duration(v)
	return err
}

func TestEveryFaultIsNamedWithItsPlace(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{"unknown key", "name = \"a\"\nprot = 1\n",
			[]string{`f.toml:2:1: unknown key "prot", did you mean "port"?`, "known here: keep, limits, listen, name, port"}},
		{"unknown key in a table", "[limits]\n  lenght = \"1s\"\n",
			[]string{`f.toml:2:3: unknown key "limits.lenght", did you mean "length"?`}},
		{"unknown key in an array of tables", "[[keep]]\nsource = \"a\"\n[[keep]]\nsrc = \"b\"\n",
			[]string{`f.toml:4:1: unknown key "keep.src"`, "known here: source"}},
		{"unknown table", "[limit]\nx = 1\n", []string{`f.toml:1:1: unknown key "limit"`}},
		{"two at once", "a = 1\nb = 2\n", []string{`f.toml:1:1: unknown key "a"`, `f.toml:2:1: unknown key "b"`}},
		{"wrong type", "name = \"a\"\nport = \"x\"\n", []string{"f.toml:2:", "port"}},
		{"out of range", "port = 70000\n", []string{"f.toml:1:", "port"}},
		{"bad value", "[limits]\nlength = \"soon\"\n", []string{"f.toml:2:", "length"}},
		{"no toml", "name = \n", []string{"f.toml:1:"}},
		{"twice", "name = \"a\"\nname = \"b\"\n", []string{"f.toml:2:"}},
		{"in each of the array", "[[keep]]\nsrc = \"a\"\n[[keep]]\nsrc = \"b\"\n",
			[]string{`f.toml:2:1: unknown key "keep.src"`, `f.toml:4:1: unknown key "keep.src"`}},
		{"behind a string that looks like it", "name = \"\"\"\nprot = 1\n[limits]\n\"\"\"\nprot = 2\n",
			[]string{`f.toml:5:1: unknown key "prot"`}},
		{"dotted", "limits.lenght = \"1s\"\n", []string{`f.toml:1:1: unknown key "limits.lenght"`}},
		{"dotted within a table", "[limits]\na.b = 1\n", []string{`f.toml:2:1: unknown key "limits.a"`}},
		{"in an inline table", "limits = { length = \"1s\", lenght = 2 }\n",
			[]string{`f.toml:1:27: unknown key "limits.lenght"`}},
		{"in a list of inline tables", "keep = [\n  { source = \"a\" }, # one\n  { sauce = 'b' },\n]\n",
			[]string{`f.toml:3:5: unknown key "keep.sauce"`}},
		{"quoted", "\"pro t\" = 1\n", []string{`f.toml:1:1: unknown key`, "pro t"}},
		{"an unknown table's own", "[a.b]\nc = 1\n", []string{`f.toml:1:1: unknown key "a"`}},
		{"another spelling", "Name = \"a\"\nPORT = 1\n",
			[]string{`f.toml:1:1: unknown key "Name"`, `f.toml:2:1: unknown key "PORT"`}},
		{"columns are characters", "keep = [{ source = \"äöü\", x = 1 }]\n", []string{"f.toml:1:27:"}},
		{"unexported field", "hidden = \"x\"\n", []string{`unknown key "hidden"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := Parse("f.toml", c.text, new(sample))
			if err == nil {
				t.Fatal("accepted")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q lacks %q", err, want)
				}
			}
		})
	}
}

func TestDefaultsStayAndValuesArrive(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f.toml")
	if err := os.WriteFile(path, []byte("port = 9\n[limits]\nlength = \"3s\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got := sample{Name: "default"}
	if err := Load(path, &got); err != nil {
		t.Fatal(err)
	}
	if got.Name != "default" || got.Port != 9 || got.Limits.Length != duration(3*time.Second) || got.hidden != "" {
		t.Errorf("got %+v", got)
	}
}

func TestLinesTellsWhereTablesBegin(t *testing.T) {
	text := "# [[keep]]\n[[keep]]\nsource = '''\n[[keep]]\n'''\n\n[[ keep ]] # second\nsource = \"b\"\n"
	if err := Parse("f.toml", text, new(sample)); err != nil {
		t.Fatal(err)
	}
	if got := Lines(text, "keep"); !slices.Equal(got, []int{2, 7}) {
		t.Errorf("got %v", got)
	}
}

// The size is bounded, so the time must be: no pass may be quadratic.
func TestAFileFullOfFaultsIsAnsweredInTime(t *testing.T) {
	var manyKeys, manyTables strings.Builder
	for i := 0; manyKeys.Len() < maxSize/4; i++ {
		fmt.Fprintf(&manyKeys, "k%d = 1\n", i)
		fmt.Fprintf(&manyTables, "[t.u.v%d]\n", i)
	}
	for name, text := range map[string]string{
		"keys": manyKeys.String(), "tables": manyTables.String(),
		"one long key": strings.Repeat("a", maxSize/4) + " = 1\n",
		"deep":         "name = " + strings.Repeat("[", 5000) + strings.Repeat("]", 5000),
	} {
		done := make(chan error, 1)
		go func() { done <- Parse("f.toml", text, new(sample)) }()
		select {
		case err := <-done:
			if err == nil || len(strings.Split(err.Error(), "\n")) > maxFaults+1 {
				t.Errorf("%s: %.200v", name, err)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: no answer", name)
		}
	}
}

func TestWhatIsNoFileIsRefusedWithoutWaiting(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{pipe, "/dev/zero", t.TempDir()} {
		if err := Load(path, new(sample)); !errors.Is(err, ErrNotRegular) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("name = \"a\"\n[limits]\nlength = \"3s\"\n[[keep]]\nsource = 'x'\n")
	f.Add("keep = [{ source = \"a\", b.c = [1, { d = '' }] }]\n")
	f.Add("\"\" = 1\n'a.b'.c = \"\"\"x\"\"\"\"\n")
	f.Fuzz(func(t *testing.T, text string) {
		err := Parse("f.toml", text, new(sample))
		if err != nil && strings.TrimSpace(err.Error()) == "" {
			t.Error("an error that says nothing")
		}
		scan(text) // of anything: it ends
	})
}

func TestAHugeFileIsRefusedUnread(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f.toml")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, maxSize+1); err != nil {
		t.Fatal(err)
	}
	if err := Load(path, new(sample)); err == nil || !strings.Contains(err.Error(), "1 MiB") {
		t.Errorf("got %v", err)
	}
}
