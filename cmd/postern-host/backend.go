package main

import (
	"context"
	"log/slog"
	"net/netip"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/firewall/choose"
	"github.com/postern-sdp/postern/firewall/survey"
	"github.com/postern-sdp/postern/host"
	"github.com/postern-sdp/postern/host/protect"
	"github.com/postern-sdp/postern/internal/bootclock"
	"github.com/postern-sdp/postern/internal/logkeys"
)

// openFirewall opens the backend that the settings and the machine ask for, logs the
// choice and what would stand in its way, and touches nothing. It is nil for "none".
// What was decided that cannot be read counts as decided: whoever puts the rules in
// force says so.
func openFirewall(ctx context.Context, s host.Settings, log *slog.Logger) (firewall.Firewall,
	choose.Choice, error) {
	record, clock, _ := protect.Store{Folder: s.State}.Read()
	boot, _ := bootclock.ID() // without one, pinholes of another boot are not told from this one's
	fw, choice, err := choose.Open(ctx, choose.Config{
		Backend: s.Firewall.Backend, Name: s.Firewall.Table, Last: survey.Variant(record.Backend),
		Blind: record.At(clock) != protect.Off, Boot: boot,
	})
	if err != nil {
		return nil, choice, err
	}
	if fw == nil {
		warnLeft(ctx, s, log)
		return nil, choice, nil
	}
	log.Info("firewall chosen", logkeys.Backend, choice.String())
	obstacles, err := choose.Obstacles(ctx, s.Firewall.Table, choice,
		survey.Probe{Protocol: "udp", Port: tunnelPort(s)})
	if err != nil {
		log.Warn("other packet filters not surveyed", logkeys.Error, err)
	}
	for _, o := range obstacles {
		log.Warn("another packet filter stops what pinholes let in: see postern-host doctor",
			logkeys.Chain, o.Chain.String(), logkeys.Reason, o.Rule)
	}
	return fw, choice, nil
}

// warnLeft says when rules of ours are in force without a backend that opens them.
func warnLeft(ctx context.Context, s host.Settings, log *slog.Logger) {
	m, err := choose.Look(ctx, s.Firewall.Table)
	if err == nil && len(m.Ours) > 0 {
		log.Warn("rules of before are in force, and nobody opens a door in them: postern-host unprotect "+
			"takes them away", logkeys.Backend, string(m.Ours[0]))
	}
}

// tunnelPort is the local port that pinholes are for.
func tunnelPort(s host.Settings) uint16 {
	a, err := netip.ParseAddrPort(s.Tunnel.Listen)
	if err != nil {
		return 0 // settings are validated
	}
	return a.Port()
}
