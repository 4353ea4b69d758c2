package client

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/netchange"
	"github.com/postern-sdp/postern/spa/key"
)

// Client is an enrolled device. It is safe for concurrent use.
type Client struct {
	identity *control.Enrolled
	timeout  time.Duration // of a knock; 0 is the default
	network  netchange.Hub
	renewing atomic.Bool   // the certificate, in the background
	guesses  atomic.Uint64 // at the controller's time, for host knocks
}

// Option changes how a Client works.
type Option func(*Client)

// WithTimeout bounds how long a knock waits for its answer, 5 s by default.
func WithTimeout(d time.Duration) Option { return func(c *Client) { c.timeout = d } }

// DefaultFolder is where a person's identity is kept: postern in the user's
// configuration folder.
func DefaultFolder() (string, error) {
	base, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("find the configuration folder: %w", err)
	}
	return filepath.Join(base, "postern"), nil
}

// Open loads the identity in folder. It fails with [ErrNotEnrolled] when there is
// none, and when others could read it.
func Open(folder string, options ...Option) (*Client, error) {
	identity, err := control.LoadIdentity(folder)
	if err != nil {
		return nil, err
	}
	if identity.Role != control.RoleClient {
		return nil, fmt.Errorf("%w: it is a %s's", ErrRole, identity.Role)
	}
	return newClient(identity, options), nil
}

func newClient(identity *control.Enrolled, options []Option) *Client {
	c := &Client{identity: identity}
	for _, option := range options {
		option(c)
	}
	return c
}

// Enroll redeems a join token, as text, and stores the identity in folder. name is
// a proposal; the machine's own name when empty. A failed enrolment leaves nothing
// behind. Errors never quote the token.
func Enroll(ctx context.Context, token, folder, name string, options ...Option) (*Client, error) {
	parsed, err := control.ParseJoinToken(token)
	if err != nil {
		return nil, err
	}
	if name == "" {
		name = MachineName()
	}
	c := newClient(nil, options)
	c.identity, err = control.Join(ctx, control.JoinConfig{
		Token: parsed, Role: control.RoleClient, Folder: folder, Name: name, Timeout: c.timeout,
	})
	if err != nil {
		return nil, fmt.Errorf("enrol at %s: %w", parsed.Controller, err)
	}
	return c, nil
}

// MachineName is this machine's name in the form that Postern takes: up to 63
// lower-case letters, digits, dots and dashes.
func MachineName() string {
	const longest = 63
	host, err := os.Hostname()
	if err != nil {
		return "device"
	}
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '.' || r == '-' {
			return r
		}
		return '-'
	}, strings.ToLower(host))
	if name = strings.TrimLeft(name, ".-"); name == "" {
		return "device"
	}
	return name[:min(len(name), longest)]
}

// Status is what a device knows of itself, without asking anybody.
type Status struct {
	Folder      string           `json:"folder"`
	Device      key.ID           `json:"device"`
	Name        string           `json:"name"`
	Controller  string           `json:"controller"`
	Addresses   []string         `json:"addresses"` // of the controller's knock port
	Expires     time.Time        `json:"certificate_expires"`
	Renews      time.Time        `json:"certificate_renews"` // due from then on
	ClockOffset control.Duration `json:"clock_offset"`       // controller's clock minus ours, as last seen
}

// Status returns what the device knows of itself.
func (c *Client) Status() Status {
	e := c.identity
	return Status{
		Folder: e.Folder(), Device: e.ID, Name: e.Name, Controller: e.Controller.Name,
		Addresses: e.Controller.Addresses, Expires: e.Leaf().NotAfter, Renews: e.RenewAt(),
		ClockOffset: control.Duration(e.Offset()),
	}
}

// Current reports whether the identity is still the one in its folder:
// [ErrNotEnrolled] when there is none any more, [ErrEnrolled] when it is another one.
func (c *Client) Current() error {
	now, err := control.LoadIdentity(c.identity.Folder())
	if err == nil && now.ID != c.identity.ID {
		err = ErrEnrolled
	}
	return err
}

// Service is one service as this device sees it.
type Service = control.Service

// Services is what this device may reach, and nothing else.
type Services = control.ServicesResponse

// SessionInfo is one live session of this device's.
type SessionInfo = control.SessionInfo

// Services asks the controller what this device may reach, and keeps the answer for
// [CachedServices].
func (c *Client) Services(ctx context.Context) (Services, error) {
	api, err := c.dial(ctx)
	if err != nil {
		return Services{}, err
	}
	defer api.Close()
	list, err := api.Services(ctx)
	if err == nil {
		c.cache(list)
	}
	return list, err
}

// Sessions asks the controller for this device's live sessions.
func (c *Client) Sessions(ctx context.Context) ([]SessionInfo, error) {
	api, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer api.Close()
	response, err := api.Sessions(ctx)
	return response.Sessions, err
}

// now is the time on the controller's clock. It has no monotonic part: that one stands
// still while a laptop sleeps.
func (c *Client) now() time.Time { return time.Now().Round(0).Add(c.identity.Offset()) }

// hostKnockTime is the controller's time for one more host knock.
func (c *Client) hostKnockTime() time.Time {
	return time.Now().Round(0).Add(c.identity.Guess(c.guesses.Add(1) - 1))
}

func (c *Client) patience(k *control.KnockConfig) { k.Timeout = c.timeout }

// dial connects to the control API with a certificate that is fresh enough.
func (c *Client) dial(ctx context.Context) (*control.Client, error) {
	api, err := c.identity.Dial(ctx, c.patience)
	if err != nil {
		return nil, err
	}
	expired := c.now().After(c.identity.Leaf().NotAfter)
	if !c.identity.RenewDue(c.now()) {
		return api, nil
	}
	if err := c.identity.Renew(ctx, api); err != nil && expired {
		api.Close()
		return nil, fmt.Errorf("%w: %w", ErrCertificate, err)
	}
	if !expired { // a third of its life is left for other tries
		return api, nil
	}
	api.Close() // it was let in to renew and for nothing else
	return c.identity.Dial(ctx, c.patience)
}

// refresh renews the device's certificate when that is due. While the old one
// still holds, a failure is no error.
func (c *Client) refresh(ctx context.Context) error {
	if !c.identity.RenewDue(c.now()) {
		return nil
	}
	api, err := c.dial(ctx)
	if err == nil {
		return api.Close()
	}
	if c.now().Before(c.identity.Leaf().NotAfter) && ctx.Err() == nil {
		return nil
	}
	if errors.Is(err, ErrCertificate) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrCertificate, err)
}
