package main

import (
	"cmp"
	"log/slog"

	"github.com/postern-sdp/postern/host"
	"github.com/postern-sdp/postern/internal/lastgood"
	"github.com/postern-sdp/postern/internal/logkeys"
)

// noteGood notes settings that could be used, for a boot at which others cannot. The
// note is in the folder of the units, wherever the configuration has the state.
func noteGood(s host.Settings, log *slog.Logger) {
	err := lastgood.Write(lastgood.Note{
		State: s.State, Socket: s.StatusSocket, Backend: s.Firewall.Backend, Table: s.Firewall.Table,
	})
	if err != nil {
		log.Warn("what a boot with a faulty configuration falls back on is not noted", logkeys.Error, err)
	}
}

// lastGood are settings for when the configuration cannot be used: the defaults, without
// keep rules, with the state and the table of the last ones that could. An order for a
// backend may be what cannot be carried out; only that there be none is followed.
func lastGood() host.Settings {
	s := host.Defaults()
	noted, ok := lastgood.Read(host.DefaultState)
	if !ok {
		return s
	}
	s.State, s.Firewall.Table = noted.State, noted.Table
	s.StatusSocket = cmp.Or(noted.Socket, s.StatusSocket) // which an earlier version did not note
	if noted.Backend == host.BackendNone {
		s.Firewall.Backend = noted.Backend
	}
	if s.Validate() != nil {
		return host.Defaults() // nothing that this program would have noted
	}
	return s
}
