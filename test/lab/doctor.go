package lab

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/postern-sdp/postern/host/doctor"
)

// Doctor runs the host's `doctor`. The error is that of the command, which fails
// when a check does; the report is there in both cases.
func (l *Lab) Doctor(ctx context.Context) (doctor.Report, error) {
	out, failed := l.Run(ctx, "host", "postern-host", "doctor", "--json",
		"--config", l.path("host", "host.toml"))
	var r doctor.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		return doctor.Report{}, fmt.Errorf("doctor printed no report: %w (%w)", err, failed)
	}
	return r, failed
}

// StopHost ends the host's agent in order.
func (l *Lab) StopHost() error { return l.host.Stop() }

// StopController ends the controller in order.
func (l *Lab) StopController() error { return l.controller.Stop() }
