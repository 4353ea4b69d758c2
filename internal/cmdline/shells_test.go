package cmdline

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// asker has the real shells complete command lines of a program that notes what it is
// asked, and answers with a word that is a command as well.
type asker struct{ dir string }

const answers = "enroll\nprofile\nservices\n$(touch pwned)\n`touch pwned`\n--json\n"

func newAsker(t *testing.T) asker {
	t.Helper()
	a := asker{t.TempDir()}
	program := "#!/bin/sh\nprintf '<%s>' \"$@\" >\"$ASKED\"\ncat \"$ANSWERS\"\n"
	for name, text := range map[string]string{"gate-keeper": program, "answers": answers} {
		if err := os.WriteFile(filepath.Join(a.dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, shell := range Shells() {
		script := Script("gate-keeper", shell)
		if err := os.WriteFile(filepath.Join(a.dir, "completion."+shell), []byte(script), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

// run has a shell run a script, and returns what that prints.
func (a asker) run(t *testing.T, shell, script string, args ...string) string {
	t.Helper()
	os.Remove(filepath.Join(a.dir, "asked"))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // a terminal that says nothing
	defer cancel()
	cmd := exec.CommandContext(ctx, shell, append(args, "-c", script)...)
	cmd.Dir = a.dir
	cmd.Env = append(os.Environ(), "PATH="+a.dir+":"+os.Getenv("PATH"), "HOME="+a.dir, "TERM=dumb",
		"ASKED="+filepath.Join(a.dir, "asked"), "ANSWERS="+filepath.Join(a.dir, "answers"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", shell, err, out)
	}
	return string(out)
}

// asked is what the program was asked last.
func (a asker) asked() string {
	b, _ := os.ReadFile(filepath.Join(a.dir, "asked")) // none when it was not asked
	return strings.TrimSuffix(string(b), "<"+completionFlag+">")
}

func single(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// bash returns the completions of a line whose words have been split as bash does it.
func (a asker) bash(t *testing.T, words ...string) []string {
	script := "source ./completion.bash\nCOMP_WORDS=("
	for _, w := range words {
		script += single(w) + " "
	}
	script += fmt.Sprintf(")\nCOMP_CWORD=%d\n_gate_keeper\nprintf '%%s\\n' \"${COMPREPLY[@]}\"", len(words)-1)
	return strings.Split(strings.TrimSpace(a.run(t, "bash", script, "--norc")), "\n")
}

// fish returns the completions of a line.
func (a asker) fish(t *testing.T, line string) []string {
	quoted := strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(line)
	return strings.Fields(a.run(t, "fish", "source completion.fish; complete -C'"+quoted+"'", "--no-config"))
}

// zsh returns what a line has become after a TAB: its line editor is at a terminal,
// and what it has made of the line is printed. load makes the completion known.
func (a asker) zsh(t *testing.T, load, line string) string {
	script := `zmodload zsh/zpty
zpty z zsh -f -i
say() { zpty -n -w z "$1" }
await() { zpty -r -m z REPLY "$1" || exit 1 }
say $'PS1=; stty -echo\n'
say 'setopt zle; bindkey -e; autoload -Uz compinit; ` + load + `; print -r RE""ADY'$'\n'
await '*READY*'
say ` + single(line) + `$'\t\x01print -r -- GOT""=\n'
await $'*GOT=*\n'
print -r -- "$REPLY"`
	out := a.run(t, "zsh", script, "-f")
	_, got, _ := strings.Cut(out, "GOT=")
	return strings.TrimSpace(got)
}

const (
	zshSourced  = `compinit -D -u; source ./completion.zsh`
	zshAutoload = `mkdir f; cp completion.zsh f/_gate_keeper; fpath=(./f $fpath); compinit -D -u`
)

func TestEachShellCompletes(t *testing.T) {
	a := newAsker(t)
	if got := a.bash(t, "gate-keeper", "--profile", "x", "s"); !slices.Equal(got, []string{"services"}) || a.asked() != "<--profile><x>" {
		t.Errorf("bash: %q, asked %s", got, a.asked())
	}
	if got := a.fish(t, "gate-keeper --profile x s"); !slices.Equal(got, []string{"services"}) || a.asked() != "<--profile><x>" {
		t.Errorf("fish: %q, asked %s", got, a.asked())
	}
	for _, load := range []string{zshSourced, zshAutoload} {
		if got := a.zsh(t, load, "gate-keeper --profile 'x' s"); got != "gate-keeper --profile x services" || a.asked() != "<--profile><x>" {
			t.Errorf("zsh: %q, asked %s", got, a.asked())
		}
	}
	a.bash(t, "gate-keeper", "profile", "--js")
	inBash := a.asked()
	a.fish(t, "gate-keeper profile --js")
	inFish := a.asked()
	a.zsh(t, zshSourced, "gate-keeper profile --js")
	if want := "<profile><--js>"; inBash != want || inFish != want || a.asked() != want {
		t.Errorf("a beginning of an option: asked %s by bash, %s by fish, %s by zsh", inBash, inFish, a.asked())
	}
}

// What stands in a line, or comes from a controller, is not run because somebody
// pressed TAB.
func TestACompletionRunsNothingElse(t *testing.T) {
	a := newAsker(t)
	for _, word := range []string{"'a; touch pwned #'", "'$(touch pwned)'", "'`touch pwned`'", "'&& touch pwned #'", "'(touch pwned)'"} {
		plain := strings.Trim(word, "'")
		a.bash(t, "gate-keeper", "ssh", word, "")
		if a.asked() != "<ssh><"+word+">" {
			t.Errorf("bash, %s: asked %s", word, a.asked())
		}
		a.fish(t, "gate-keeper ssh "+word+" ")
		if a.asked() != "<ssh><"+plain+">" {
			t.Errorf("fish, %s: asked %s", word, a.asked())
		}
		if got := a.zsh(t, zshSourced, "gate-keeper ssh "+word+" pro"); !strings.HasSuffix(got, "profile") || a.asked() != "<ssh><"+plain+">" {
			t.Errorf("zsh, %s: %q, asked %s", word, got, a.asked())
		}
		if _, err := os.Stat(filepath.Join(a.dir, "pwned")); err == nil {
			t.Fatalf("%s was run", word)
		}
	}
}

func TestACompletionBehindTheEndOfOptionsIsNotAnswered(t *testing.T) {
	for line, want := range map[string]bool{
		"gate open -- " + completionFlag: true, "gate open -- x " + completionFlag: true,
		"gate open " + completionFlag: false, "gate open -- x": false, "gate": false,
	} {
		if got := Unanswerable(strings.Fields(line)); got != want {
			t.Errorf("%q: %v", line, got)
		}
	}
}
