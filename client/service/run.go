package service

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/postern-sdp/postern/internal/atomicfile"
)

const (
	patience   = 30 * time.Second // a manager that does not answer is not waited for longer
	maxTalk    = 2000             // bytes of what a manager's program says that an error quotes
	fileMode   = 0o644
	folderMode = 0o755
)

// run starts a manager's program and returns what it printed. An error has what it
// complained of.
func run(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var out, talk bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &out, &talk
	if err := cmd.Run(); err != nil {
		said := strings.TrimSpace(talk.String())
		if said == "" {
			said = strings.TrimSpace(out.String())
		}
		if said != "" {
			said = ": " + said[:min(len(said), maxTalk)]
		}
		return out.String(), fmt.Errorf("%s %s: %w%s", name, strings.Join(args, " "), err, said)
	}
	return out.String(), nil
}

// write replaces the service's file, and makes its folder.
func write(file string, content []byte) error {
	if err := os.MkdirAll(filepath.Dir(file), folderMode); err != nil {
		return err
	}
	return atomicfile.Write(file, content, fileMode)
}
