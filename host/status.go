package host

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sort"
	"syscall"
	"time"

	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/logkeys"
	"github.com/postern-sdp/postern/spa/key"
)

const (
	statusTimeout = 2 * time.Second
	statusPause   = time.Second // after an error, as when no file can be opened
	maxStatus     = 64 << 20    // bytes that a reader takes
)

// Status is what a running agent tells about itself. It has no secrets.
type Status struct {
	Version    string     `json:"version"`
	Name       string     `json:"name"`
	Host       key.ID     `json:"host"`
	Started    time.Time  `json:"started"`
	Link       LinkStatus `json:"link"`
	Protection string     `json:"protection"` // on, trial or off
	Firewall   string     `json:"firewall"`   // nftables, iptables-nft, iptables-legacy or none
	// Config is the file that the agent reads; Settings are what of it holds until the
	// agent's next start, by their keys.
	Config   string            `json:"config,omitempty"`
	Settings map[string]string `json:"settings"`
	// CertificateExpires is when the present certificate ends.
	CertificateExpires time.Time         `json:"certificate_expires"`
	Sessions           []SessionStatus   `json:"sessions"`
	Pinholes           []PinholeStatus   `json:"pinholes"`
	HostKnocks         map[string]uint64 `json:"host_knocks"` // by reason
	// Capture tells whether host knocks are read ahead of the firewall.
	Capture bool `json:"capture"`
	// Silenced counts datagrams from sources that had not knocked.
	Silenced uint64 `json:"silenced"`
	// CaptureDropped counts datagrams that came faster than capture read them.
	CaptureDropped uint64 `json:"capture_dropped"`
	// Bytes went through all tunnels since the agent started, both directions.
	Bytes uint64 `json:"bytes"`
	// Dropped is missing when there is no table to ask.
	Dropped *DroppedStatus `json:"dropped,omitempty"`
	// MetricsError is why the metrics that the settings ask for are not served.
	MetricsError string `json:"metrics_error,omitempty"`
	// Emergency is the state of break-glass.
	Emergency EmergencyStatus `json:"emergency"`
}

// DroppedStatus counts packets that the table dropped: see [firewall.Dropped].
type DroppedStatus struct {
	Input   uint64 `json:"input"`
	Door    uint64 `json:"door"`
	Forward uint64 `json:"forward"`
	Output  uint64 `json:"output"`
}

// LinkStatus is the state of the connection to the controller.
type LinkStatus struct {
	Connected bool      `json:"connected"`
	Since     time.Time `json:"since"` // of the present state
	// Error is why the link is down.
	Error string `json:"error,omitempty"`
	// Connects counts how often the link came up.
	Connects uint64 `json:"connects"`
}

// SessionStatus is one live session.
type SessionStatus struct {
	ID      key.ID `json:"id"`
	Device  key.ID `json:"device"`
	Service string `json:"service"`
	Target  string `json:"target"`
	control.Access
	Source  string           `json:"source"` // where it is bound, or the address in the order
	Bound   bool             `json:"bound"`  // a host knock has come
	Left    control.Duration `json:"left"`
	Tunnels int              `json:"tunnels"`
	Bytes   uint64           `json:"bytes"`
}

// PinholeStatus is one opening of the kernel's.
type PinholeStatus struct {
	Protocol string           `json:"protocol"` // tcp or udp
	Source   string           `json:"source"`   // address:port, or the address alone for any port
	Port     uint16           `json:"port"`
	Left     control.Duration `json:"left"`
}

func (s *session) status(now time.Duration) SessionStatus {
	v := SessionStatus{
		ID: s.order.ID, Device: s.order.Device, Service: s.order.Service, Target: s.order.Target,
		Access: s.order.Access,
		Bound:  s.bound.IsValid(), Left: control.Duration((s.until - now).Round(time.Millisecond)),
		Tunnels: s.tunnels, Bytes: s.bytes.Load(),
	}
	switch {
	case v.Bound:
		v.Source = s.bound.String()
	case s.order.Source.IsValid():
		v.Source = s.order.Source.String()
	}
	return v
}

// status returns the live sessions and the pinholes that the books have.
func (b *sessions) status() ([]SessionStatus, []PinholeStatus, error) {
	var pinholes []PinholeStatus
	err := b.do(func(context.Context) {
		for _, p := range b.holes.all(b.now()) {
			source := p.Source.String()
			if p.SourcePort != 0 {
				source = net.JoinHostPort(source, fmt.Sprint(p.SourcePort))
			}
			pinholes = append(pinholes, PinholeStatus{
				Protocol: p.Protocol.String(), Source: source, Port: p.Port, Left: control.Duration(p.TTL.Round(time.Millisecond)),
			})
		}
	})
	if err != nil {
		return nil, nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	live := make([]SessionStatus, 0, len(b.live))
	for _, s := range b.live {
		live = append(live, s.status(b.now()))
	}
	sort.Slice(live, func(i, j int) bool { return live[i].Left < live[j].Left })
	sort.Slice(pinholes, func(i, j int) bool { return pinholes[i].Left < pinholes[j].Left })
	return live, pinholes, nil
}

// carriedAll returns the bytes of all sessions, those that ended as well.
func (b *sessions) carriedAll() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := b.carried
	for _, s := range b.live {
		all += s.bytes.Load()
	}
	return all
}

// listenStatus opens the status socket, readable by this process's user only. A
// socket that a dead agent left is replaced, one that somebody answers is not.
func listenStatus(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("make folder of the status socket: %w", err)
	}
	if c, err := net.DialTimeout("unix", path, statusTimeout); err == nil {
		return nil, errors.Join(fmt.Errorf("%w: %s answers", ErrRunning, path), c.Close())
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove old status socket: %w", err)
	}
	// Between its making and the chmod nobody else may connect.
	old := syscall.Umask(0o177)
	l, err := net.Listen("unix", path)
	syscall.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("listen for status: %w", err)
	}
	return l, nil
}

// serveStatus writes the status to whoever connects, one after the other, until
// the listener is closed. What else may go wrong, as when there are no files left, is
// no reason to end the agent, and passes.
func serveStatus(ctx context.Context, l net.Listener, status func() (Status, error), log *slog.Logger) error {
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			log.Error("status reader not served, will try again", logkeys.Error, err)
			pause := time.NewTimer(statusPause)
			select {
			case <-ctx.Done():
				pause.Stop()
				return nil
			case <-pause.C:
			}
			continue
		}
		if err := writeStatus(c, status); err != nil {
			log.Debug("status not told", logkeys.Error, err)
		}
	}
}

func writeStatus(c net.Conn, status func() (Status, error)) error {
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(statusTimeout)); err != nil {
		return err
	}
	s, err := status()
	if err != nil {
		return err
	}
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	_, err = c.Write(b)
	return err
}

// ReadStatus asks the agent whose status socket is at path.
func ReadStatus(ctx context.Context, path string) (Status, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return Status{}, fmt.Errorf("%w: %w", ErrNotRunning, err)
	}
	if err != nil {
		return Status{}, fmt.Errorf("ask the agent: %w", err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(2 * statusTimeout)); err != nil {
		return Status{}, fmt.Errorf("ask the agent: %w", err)
	}
	var b bytes.Buffer
	if _, err := io.Copy(&b, io.LimitReader(c, maxStatus)); err != nil {
		return Status{}, fmt.Errorf("ask the agent: %w", err)
	}
	var s Status
	if err := json.Unmarshal(b.Bytes(), &s); err != nil {
		return Status{}, fmt.Errorf("read the agent's answer: %w", err)
	}
	return s, nil
}
