package cmdline

import (
	"bytes"
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

func TestBashTakesTheScript(t *testing.T) {
	script := Script("postern-host", "bash")
	if !strings.Contains(script, "_postern_host postern-host") {
		t.Errorf("the script is for something else:\n%s", script)
	}
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), bash, "-n", "-c", script).CombinedOutput(); err != nil {
		t.Errorf("bash refuses the script: %v: %s", err, out)
	}
}

func TestEachShellHasAScriptAndNoOther(t *testing.T) {
	errUsage := errors.New("usage")
	for _, shell := range append(Shells(), "tcsh", "") {
		var out bytes.Buffer
		app := &cli.App{Writer: &out, Commands: []*cli.Command{
			Completion("postern", &out, func(err error) error { return errors.Join(errUsage, err) }),
		}, ExitErrHandler: func(*cli.Context, error) {}}
		err := app.RunContext(t.Context(), append([]string{"postern", "completion"}, strings.Fields(shell)...))
		known := scripts[shell] != ""
		if known && (err != nil || !strings.Contains(out.String(), "postern")) ||
			!known && !errors.Is(err, errUsage) {
			t.Errorf("%q: %v, printed %q", shell, err, out.String())
		}
	}
}
