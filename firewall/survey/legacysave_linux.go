package survey

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"time"
)

// saveTime bounds the run of iptables-legacy-save, which waits for a lock of its own.
const saveTime = 10 * time.Second

// readLegacy reads the tables of iptables-legacy that the kernel has. The kernel makes
// a table when somebody first asks for it, so nobody asks before it is in /proc.
func (m *Machine) readLegacy(ctx context.Context) {
	for _, l := range []struct{ names, program, family string }{
		{"ip_tables_names", "iptables-legacy-save", "ip"},
		{"ip6_tables_names", "ip6tables-legacy-save", "ip6"},
	} {
		names, err := os.ReadFile("/proc/thread-self/net/" + l.names)
		if errors.Is(err, fs.ErrNotExist) || err == nil && len(bytes.TrimSpace(names)) == 0 {
			continue
		}
		var text string
		if err == nil {
			text, err = save(ctx, l.program)
		}
		if err != nil {
			m.Unread = append(m.Unread, fmt.Sprintf("iptables-legacy's tables: %v", err))
			continue
		}
		for _, t := range parseSave(text, l.family, IPTablesLegacy) {
			if t.tells() {
				m.addTable(t)
			}
		}
	}
}

// tells reports whether the table does anything.
func (t *table) tells() bool {
	for _, c := range t.chains {
		if c.drops || len(c.rules) > 0 {
			return true
		}
	}
	return false
}

func save(ctx context.Context, program string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, saveTime)
	defer cancel()
	path, err := exec.LookPath(program)
	if err != nil {
		path = "/usr/sbin/" + program
	}
	cmd := exec.CommandContext(ctx, path)
	var talk bytes.Buffer
	cmd.Stderr = &talk
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("run %s: %w: %s", program, err, strings.TrimSpace(talk.String()))
	}
	return string(out), nil
}
