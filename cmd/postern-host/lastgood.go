package main

import (
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/postern-sdp/postern/host"
	"github.com/postern-sdp/postern/internal/atomicfile"
	"github.com/postern-sdp/postern/internal/logkeys"
)

// The last good configuration is noted for a boot at which it cannot be used. The note
// is in the folder of the units, wherever the configuration has the state.
const (
	goodName    = "last-good.json"
	goodVersion = 1
)

// good is what a boot needs to know to be dark where the last one was.
type good struct {
	Version int    `json:"version"`
	State   string `json:"state"`
	Socket  string `json:"status_socket"`
	Backend string `json:"backend"`
	Table   string `json:"table"`
}

func goodOf(s host.Settings) good {
	return good{goodVersion, s.State, s.StatusSocket, s.Firewall.Backend, s.Firewall.Table}
}

// unitFolder is the StateDirectory= of the unit that runs this; ok is false when none
// does.
func unitFolder() (folder string, ok bool) {
	folder, _, _ = strings.Cut(os.Getenv("STATE_DIRECTORY"), ":")
	return folder, folder != ""
}

// noteGood notes settings that could be used, when a unit runs this: without one there
// is no boot to look for them.
func noteGood(s host.Settings, log *slog.Logger) {
	folder, ok := unitFolder()
	now := goodOf(s)
	if !ok || readGood(folder) == now {
		return
	}
	text, err := json.Marshal(now)
	if err == nil {
		err = atomicfile.Write(filepath.Join(folder, goodName), append(text, '\n'), 0o600)
	}
	if err != nil {
		log.Warn("what a boot with a faulty configuration falls back on is not noted", logkeys.Error, err)
	}
}

// readGood returns the note, or the defaults without a usable one.
func readGood(folder string) good {
	var g good
	text, err := atomicfile.ReadPrivate(filepath.Join(folder, goodName))
	if err != nil || json.Unmarshal(text, &g) != nil || g.Version != goodVersion {
		return goodOf(host.Defaults())
	}
	return g
}

// lastGood are settings for when the configuration cannot be used: the defaults, without
// keep rules, with the state and the table of the last ones that could. An order for a
// backend may be what cannot be carried out; only that there be none is followed.
func lastGood() host.Settings {
	folder, ok := unitFolder()
	if !ok {
		folder = host.DefaultState
	}
	noted, s := readGood(folder), host.Defaults()
	s.State, s.StatusSocket, s.Firewall.Table = noted.State, noted.Socket, noted.Table
	if noted.Backend == host.BackendNone {
		s.Firewall.Backend = noted.Backend
	}
	if s.Validate() != nil {
		return host.Defaults() // nothing that this program would have noted
	}
	return s
}
