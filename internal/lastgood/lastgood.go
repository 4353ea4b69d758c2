// Package lastgood notes, of a daemon's configuration that could be used, what a boot
// has to know at which it cannot be used any more, to be dark where the last one was.
package lastgood

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"

	"github.com/postern-sdp/postern/internal/atomicfile"
)

const (
	name    = "last-good.json"
	version = 1
)

// Note is what a boot needs to know.
type Note struct {
	State   string // where the daemon's state is; empty where the rules do not depend on it
	Socket  string // where the daemon tells how it is; empty where nobody asks
	Backend string
	Table   string
}

// file is a Note on the disk.
type file struct {
	Version int    `json:"version"`
	State   string `json:"state,omitempty"`
	Socket  string `json:"status_socket,omitempty"`
	Backend string `json:"backend"`
	Table   string `json:"table"`
}

// unitFolder is the StateDirectory= of the unit that runs this; ok is false when none
// does.
func unitFolder() (folder string, ok bool) {
	folder, _, _ = strings.Cut(os.Getenv("STATE_DIRECTORY"), ":")
	return folder, folder != ""
}

// Write notes n in the folder of the unit that runs this. Without one there is no boot
// to look for it, and nothing is written.
func Write(n Note) error {
	folder, ok := unitFolder()
	if !ok {
		return nil
	}
	if noted, ok := read(folder); ok && noted == n {
		return nil
	}
	text, err := json.Marshal(file{version, n.State, n.Socket, n.Backend, n.Table})
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(folder, name), append(text, '\n'), 0o600)
}

// Read returns the note in the folder of the unit that runs this, or in folder when none
// does; ok is false without a usable one.
func Read(folder string) (n Note, ok bool) {
	if units, ok := unitFolder(); ok {
		folder = units
	}
	return read(folder)
}

func read(folder string) (n Note, ok bool) {
	text, err := atomicfile.ReadPrivate(filepath.Join(folder, name))
	if err != nil {
		return Note{}, false
	}
	var f file
	if err := json.Unmarshal(text, &f); err != nil || f.Version != version {
		return Note{}, false
	}
	return Note{f.State, f.Socket, f.Backend, f.Table}, true
}
