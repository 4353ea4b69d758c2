package control

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/quic-go/quic-go/http3"

	"github.com/postern-sdp/postern/spa/key"
)

// callTimeout bounds a call whose context has no deadline of its own.
const callTimeout = 10 * time.Second

// origin stands in for a host name: the connection is there already, and its
// other end is known by its certificate.
const origin = "https://controller"

// Client is a connection to a controller's control API. It is safe for
// concurrent use.
type Client struct {
	link   *link
	http   *http3.ClientConn
	answer Answer
	id     key.ID
	close  sync.Once
}

func newClient(l *link, answer Answer, id key.ID) *Client {
	t := &http3.Transport{DisableCompression: true}
	return &Client{link: l, http: t.NewClientConn(l.conn), answer: answer, id: id}
}

// Enroll redeems a join token, see [Join].
func (c *Client) Enroll(ctx context.Context, r EnrollRequest) (EnrollResponse, error) {
	var out EnrollResponse
	return out, c.call(ctx, http.MethodPost, PathEnroll, r, &out)
}

// Renew fetches a fresh certificate, see [Enrolled.Renew].
func (c *Client) Renew(ctx context.Context, r RenewRequest) (RenewResponse, error) {
	var out RenewResponse
	return out, c.call(ctx, http.MethodPost, PathRenew, r, &out)
}

// Services lists what the caller may reach.
func (c *Client) Services(ctx context.Context) (ServicesResponse, error) {
	var out ServicesResponse
	return out, c.call(ctx, http.MethodGet, PathServices, nil, &out)
}

// Sessions lists the caller's own sessions.
func (c *Client) Sessions(ctx context.Context) (SessionsResponse, error) {
	var out SessionsResponse
	return out, c.call(ctx, http.MethodGet, PathSessions, nil, &out)
}

// CloseSession ends a session of the caller's.
func (c *Client) CloseSession(ctx context.Context, session key.ID) error {
	return c.call(ctx, http.MethodPost, PathClose, CloseRequest{Session: session}, &struct{}{})
}

// Offset is the controller's clock minus ours, as the knock's answer told.
func (c *Client) Offset() time.Duration { return c.answer.Offset }

// Identity is whose knock opened the connection.
func (c *Client) Identity() key.ID { return c.id }

// LocalAddr and RemoteAddr are the ends of the connection.
func (c *Client) LocalAddr() net.Addr { return c.link.conn.LocalAddr() }

// RemoteAddr is the controller's end.
func (c *Client) RemoteAddr() net.Addr { return c.link.conn.RemoteAddr() }

// Done is closed when the connection is over; Err says why.
func (c *Client) Done() <-chan struct{} { return c.link.conn.Context().Done() }

// Err returns why the connection is over, nil while it lives.
func (c *Client) Err() error { return context.Cause(c.link.conn.Context()) }

// Close ends the connection and all calls on it. It may be called many times.
func (c *Client) Close() error {
	c.close.Do(func() { c.link.close(0, "") })
	return nil
}

// call sends in as JSON, unless it is nil, and reads the answer into out.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	if _, has := ctx.Deadline(); !has {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, callTimeout)
		defer cancel()
	}
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("call %s: %w", path, err)
		}
		body = bytes.NewReader(b)
	}
	request, err := http.NewRequestWithContext(ctx, method, origin+path, body)
	if err != nil {
		return fmt.Errorf("call %s: %w", path, err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := c.http.RoundTrip(request)
	if err != nil {
		return fmt.Errorf("call %s: %w", path, err)
	}
	defer response.Body.Close()
	if err := decodeResponse(response, out); err != nil {
		return fmt.Errorf("call %s: %w", path, err)
	}
	return nil
}

func decodeResponse(response *http.Response, out any) error {
	if response.StatusCode/100 != 2 {
		return statusError(response)
	}
	b, err := io.ReadAll(io.LimitReader(response.Body, MaxBody+1))
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if len(b) > MaxBody {
		return ErrTooLong
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	return nil
}

// maxShown bounds a sentence of the controller's, in bytes.
const maxShown = 512

// statusError reads the controller's sentence.
func statusError(response *http.Response) error {
	var body ErrorResponse
	b, _ := io.ReadAll(io.LimitReader(response.Body, 4*maxShown)) // what there is will do
	if json.Unmarshal(b, &body) != nil || body.Error == "" {
		body.Error = http.StatusText(response.StatusCode)
	}
	return &StatusError{Status: response.StatusCode, Text: printable(body.Error, maxShown)}
}

// printable makes text fit for a terminal: short, valid and without control characters.
func printable(text string, limit int) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
	return strings.ToValidUTF8(text[:min(len(text), limit)], "")
}
