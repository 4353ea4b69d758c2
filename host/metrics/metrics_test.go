package metrics

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/postern-sdp/postern/host"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/testkit"
	"github.com/postern-sdp/postern/spa/key"
)

// serve serves status until the test ends, and returns the address.
func serve(t *testing.T, status func() (host.Status, error)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, status) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return l.Addr().String()
}

func scrape(t *testing.T, address string) (families map[string]*dto.MetricFamily, code int) {
	t.Helper()
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	r, err := client.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return nil, r.StatusCode
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err = parser.TextToMetricFamilies(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return families, r.StatusCode
}

// value returns the value of the series with that label value, "" for none.
func value(t *testing.T, families map[string]*dto.MetricFamily, name, label string) float64 {
	t.Helper()
	f := families[prefix+name]
	if f == nil {
		t.Errorf("%s is missing", name)
		return 0
	}
	for _, m := range f.Metric {
		if label == "" || len(m.Label) == 1 && m.Label[0].GetValue() == label {
			if f.GetType() == dto.MetricType_COUNTER {
				return m.Counter.GetValue()
			}
			return m.Gauge.GetValue()
		}
	}
	t.Errorf("%s has no %q", name, label)
	return 0
}

func busy() host.Status {
	return host.Status{
		Version: "1.2.3", Name: "web1", Host: key.NewID(), Started: time.Unix(1000, 0),
		Link:               host.LinkStatus{Connected: true, Connects: 3},
		CertificateExpires: time.Unix(2000, 500e6),
		Sessions: []host.SessionStatus{
			{ID: key.NewID(), Service: "ssh-web1", Source: "192.0.2.7:4711", Bound: true, Tunnels: 2},
			{ID: key.NewID(), Service: "ssh-web1", Source: "192.0.2.8"},
			{ID: key.NewID(), Service: "wiki", Source: "192.0.2.9:4711", Bound: true, Tunnels: 1},
		},
		Pinholes: []host.PinholeStatus{
			{Source: "192.0.2.8", Left: control.Duration(1500 * time.Millisecond)},
			{Source: "192.0.2.7:4711", Left: control.Duration(time.Hour)},
		},
		HostKnocks: map[string]uint64{"ok": 5, "replay": 2}, Silenced: 77, CaptureDropped: 8, Bytes: 1 << 40,
		Dropped: &host.DroppedStatus{Input: 11, Door: 12, Forward: 13, Output: 14},
	}
}

func TestAScrapeSaysWhatTheStatusSays(t *testing.T) {
	got, _ := scrape(t, serve(t, func() (host.Status, error) { return busy(), nil }))
	for _, c := range []struct {
		name, label string
		want        float64
	}{
		{"link_up", "", 1}, {"link_connects_total", "", 3}, {"start_time_seconds", "", 1000},
		{"certificate_expiry_timestamp_seconds", "", 2000.5}, {"sessions", "bound", 2},
		{"sessions", "waiting", 1}, {"tunnels", "", 3}, {"pinholes", "", 2},
		{"pinhole_seconds_left_min", "", 1.5}, {"dropped_packets_total", "input", 11},
		{"dropped_packets_total", "door", 12}, {"dropped_packets_total", "forward", 13},
		{"dropped_packets_total", "output", 14}, {"silenced_datagrams_total", "", 77},
		{"knocks_total", "ok", 5}, {"knocks_total", "replay", 2},
		{"capture_dropped_datagrams_total", "", 8}, {"carried_bytes_total", "", 1 << 40},
		{"build_info", "", 1},
	} {
		if v := value(t, got, c.name, c.label); v != c.want {
			t.Errorf("%s{%s} is %v, want %v", c.name, c.label, v, c.want)
		}
	}
	if got["go_goroutines"] == nil || got["process_open_fds"] == nil {
		t.Error("Go's and the process's own metrics are missing")
	}
}

func TestEachMetricIsInTheManualAndTheManualInventsNone(t *testing.T) {
	b, err := os.ReadFile("../../docs/OPERATIONS.md")
	if err != nil {
		t.Fatal(err)
	}
	named := make(map[string]bool)
	for _, m := range regexp.MustCompile("`(?:postern_host)?(_[a-z_]+)(?:\\{[a-z]+\\})?`").FindAllSubmatch(b, -1) {
		named["postern_host"+string(m[1])] = true
	}
	got, _ := scrape(t, serve(t, func() (host.Status, error) { return busy(), nil }))
	for name := range got {
		if strings.HasPrefix(name, prefix) && !named[name] {
			t.Errorf("docs/OPERATIONS.md does not name %s", name)
		}
	}
	for name := range named {
		if got[name] == nil {
			t.Errorf("docs/OPERATIONS.md names %s, which is not there", name)
		}
	}
}

func TestNoSeriesNamesAClientOrGrowsWithSessions(t *testing.T) {
	count := func(s host.Status) (n int) {
		families, _ := scrape(t, serve(t, func() (host.Status, error) { return s, nil }))
		for name, f := range families {
			for _, m := range f.Metric {
				for _, l := range m.Label {
					for _, secret := range []string{"192.0.2", "ssh-web1", "wiki", s.Host.String()} {
						if strings.Contains(l.GetValue(), secret) {
							t.Errorf("%s has the label %s=%s", name, l.GetName(), l.GetValue())
						}
					}
				}
				if strings.HasPrefix(name, prefix) {
					n++
				}
			}
		}
		return n
	}
	s := busy()
	few := count(s)
	for range 1000 {
		s.Sessions = append(s.Sessions, host.SessionStatus{ID: key.NewID(), Service: key.NewID().String()})
		s.Pinholes = append(s.Pinholes, host.PinholeStatus{Source: key.NewID().String()})
	}
	if many := count(s); many != few {
		t.Errorf("%d series for three sessions, %d for a thousand", few, many)
	}
}

func TestWhatIsNotKnownIsMissingAndNotZero(t *testing.T) {
	got, _ := scrape(t, serve(t, func() (host.Status, error) { return host.Status{}, nil }))
	for _, name := range []string{"dropped_packets_total", "pinhole_seconds_left_min"} {
		if got[prefix+name] != nil {
			t.Errorf("%s is there", name)
		}
	}
	if value(t, got, "link_up", "") != 0 {
		t.Error("the link is up")
	}
}

func TestAnAgentThatEndedGivesAnErrorAndNoNumbers(t *testing.T) {
	address := serve(t, func() (host.Status, error) { return host.Status{}, errors.New("shutting down") })
	if _, code := scrape(t, address); code != http.StatusInternalServerError {
		t.Errorf("answered %d", code)
	}
}

func TestAReaderWhoSaysNothingIsCutOff(t *testing.T) {
	testkit.NoLeak(t)
	address := serve(t, func() (host.Status, error) { return busy(), nil })
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("GET /met")); err != nil {
		t.Fatal(err)
	}
	if err := c.SetDeadline(time.Now().Add(4 * readLimit)); err != nil {
		t.Fatal(err)
	}
	for b := make([]byte, 1024); ; {
		if _, err := c.Read(b); errors.Is(err, context.DeadlineExceeded) || isTimeout(err) {
			t.Fatal("the connection was left open")
		} else if err != nil {
			return
		}
	}
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}
