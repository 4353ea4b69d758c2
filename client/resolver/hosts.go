package resolver

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/postern-sdp/postern/internal/atomicfile"
)

// The lines around what is ours in a hosts file.
const (
	beginLine = "# begin postern"
	endLine   = "# end postern"
)

// maxHosts bounds a hosts file that is edited, in bytes.
const maxHosts = 8 << 20

// ErrHosts is a hosts file that cannot be edited safely.
var ErrHosts = errors.New("the hosts file has a beginning of Postern's lines and no end: please mend it by hand")

// Put returns hosts with the names in a block of ours, at its end or in the place of
// the present one. Without names there is no block. Everything else stays as it is.
func Put(hosts []byte, names map[string]netip.Addr) ([]byte, error) {
	from, to, err := block(hosts)
	if err != nil {
		return nil, err
	}
	end := "\n"
	if bytes.Contains(hosts, []byte("\r\n")) {
		end = "\r\n"
	}
	var b strings.Builder
	if len(names) > 0 {
		b.WriteString(beginLine + end)
		for _, name := range sortedNames(names) {
			fmt.Fprintf(&b, "%s %s%s", names[name], name, end)
		}
		b.WriteString(endLine + end)
	}
	before, after := hosts[:from], hosts[to:]
	// Our first line needs a line of its own; the end that is put in front of it for
	// that goes with the block.
	if from == to && b.Len() > 0 && len(before) > 0 && before[len(before)-1] != '\n' {
		before = append(slices.Clone(before), end...)
	}
	return slices.Concat(before, []byte(b.String()), after), nil
}

func sortedNames(names map[string]netip.Addr) []string {
	var all []string
	for name := range names {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

// block finds ours: from is where it begins and to is behind its end. Both are the
// file's end when there is none.
func block(hosts []byte) (from, to int, err error) {
	from, at := -1, 0
	for line := range bytes.Lines(hosts) {
		text := string(bytes.TrimRight(line, "\r\n"))
		switch {
		case from < 0 && text == beginLine:
			from = at
		case from >= 0 && text == endLine:
			return from, at + len(line), nil
		}
		at += len(line)
	}
	if from >= 0 {
		return 0, 0, ErrHosts
	}
	return len(hosts), len(hosts), nil
}

// WriteHosts edits the hosts file at path; no names take ours away. It reports whether
// anything changed.
func WriteHosts(path string, names map[string]netip.Addr) (changed bool, err error) {
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	info, err := os.Stat(path)
	perm := fs.FileMode(0o644)
	var old []byte
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return false, fmt.Errorf("read the hosts file: %w", err)
	case info.Size() > maxHosts || !info.Mode().IsRegular():
		return false, fmt.Errorf("read the hosts file: %s is none", path)
	default:
		perm = info.Mode().Perm()
		if old, err = os.ReadFile(path); err != nil {
			return false, fmt.Errorf("read the hosts file: %w", err)
		}
	}
	text, err := Put(old, names)
	if err != nil {
		return false, err
	}
	if bytes.Equal(text, old) {
		return false, nil
	}
	if err := atomicfile.Write(path, text, perm); err != nil {
		// In a container the file is mounted, and cannot be replaced.
		if again := os.WriteFile(path, text, perm); again != nil {
			return false, fmt.Errorf("write the hosts file: %w", err)
		}
	}
	return true, nil
}
