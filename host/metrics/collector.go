package metrics

import (
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/postern-sdp/postern/host"
)

// names begin with this.
const prefix = "postern_host_"

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prefix+name, help, labels, nil)
}

// collector turns one status into metrics each time it is asked.
type collector struct {
	status func() (host.Status, error)

	build, up, linkUp, connects, certificate        *prometheus.Desc
	sessions, tunnels, pinholes, firstEnd           *prometheus.Desc
	dropped, silenced, knocks, captureDropped, sent *prometheus.Desc
	protection                                      *prometheus.Desc
}

func newCollector(status func() (host.Status, error)) *collector {
	return &collector{
		status: status,
		build: describe("build_info", "1, with the version of the agent and of Go.",
			"version", "goversion"),
		up: describe("start_time_seconds", "When the agent started, in Unix time."),
		protection: describe("protection", "1 for what is decided about the rules: on, trial or off.",
			"state"),
		linkUp:      describe("link_up", "1 while the agent is connected to its controller."),
		connects:    describe("link_connects_total", "How often the link to the controller came up."),
		certificate: describe("certificate_expiry_timestamp_seconds", "When the certificate ends, in Unix time."),
		sessions: describe("sessions", "Live sessions, by whether their host knock has come.",
			"state"),
		tunnels:  describe("tunnels", "Connected tunnels."),
		pinholes: describe("pinholes", "Openings of the firewall."),
		firstEnd: describe("pinhole_seconds_left_min",
			"Seconds until the first pinhole ends; missing without pinholes."),
		dropped: describe("dropped_packets_total",
			"Packets that the table dropped; missing when there is no table.", "kind"),
		silenced: describe("silenced_datagrams_total",
			"Datagrams to the tunnel's socket from sources that had not knocked."),
		knocks: describe("knocks_total", "Host knocks, by outcome.", "reason"),
		captureDropped: describe("capture_dropped_datagrams_total",
			"Datagrams that came faster than capture read them."),
		sent: describe("carried_bytes_total", "Bytes through all tunnels, both directions."),
	}
}

// Describe implements [prometheus.Collector]. It promises nothing: what there is
// depends on the agent's state.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements [prometheus.Collector].
func (c *collector) Collect(to chan<- prometheus.Metric) {
	s, err := c.status()
	if err != nil {
		to <- prometheus.NewInvalidMetric(c.linkUp, err)
		return
	}
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	count := func(d *prometheus.Desc, value uint64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(value), labels...)
	}
	gauge(c.build, 1, s.Version, runtime.Version())
	gauge(c.up, seconds(s.Started))
	gauge(c.protection, 1, s.Protection)
	linkUp := 0.0
	if s.Link.Connected {
		linkUp = 1
	}
	gauge(c.linkUp, linkUp)
	count(c.connects, s.Link.Connects)
	gauge(c.certificate, seconds(s.CertificateExpires))
	var bound, tunnels int
	for _, x := range s.Sessions {
		tunnels += x.Tunnels
		if x.Bound {
			bound++
		}
	}
	gauge(c.sessions, float64(bound), "bound")
	gauge(c.sessions, float64(len(s.Sessions)-bound), "waiting")
	gauge(c.tunnels, float64(tunnels))
	gauge(c.pinholes, float64(len(s.Pinholes)))
	if len(s.Pinholes) > 0 { // which are sorted
		gauge(c.firstEnd, time.Duration(s.Pinholes[0].Left).Seconds())
	}
	if d := s.Dropped; d != nil {
		count(c.dropped, d.Input, "input")
		count(c.dropped, d.Door, "door")
		count(c.dropped, d.Forward, "forward")
		count(c.dropped, d.Output, "output")
	}
	count(c.silenced, s.Silenced)
	for reason, n := range s.HostKnocks {
		count(c.knocks, n, reason)
	}
	count(c.captureDropped, s.CaptureDropped)
	count(c.sent, s.Bytes)
}

func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

// registry has everything that is told.
func registry(status func() (host.Status, error)) *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(newCollector(status), collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}
