package proxy

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"strconv"
	"strings"
	"time"

	"github.com/postern-sdp/postern/internal/tunnel"
)

const (
	maxHTTPHeader = 64 << 10         // bytes of a request's
	httpIdle      = time.Minute      // between two requests of a connection
	backendIdle   = 30 * time.Second // of a connection to a service
	maxBackends   = 4                // idle ones that a client's connection keeps
)

// handover is the listener of the HTTP server: connections whose first byte was a
// letter.
type handover struct{ *server }

// Accept implements [net.Listener].
func (h handover) Accept() (net.Conn, error) {
	select {
	case c := <-h.web:
		return c, nil
	case <-h.life.Done():
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener]; the end of the server's life does it.
func (h handover) Close() error { return nil }

// Addr implements [net.Listener].
func (h handover) Addr() net.Addr { return net.TCPAddrFromAddrPort(h.listens) }

// connKey is where a request's context has its connection.
type connKey struct{}

func (s *server) newHTTP() *http.Server {
	return &http.Server{
		Handler:           s,
		ReadHeaderTimeout: s.limits.hello,
		IdleTimeout:       httpIdle,
		MaxHeaderBytes:    maxHTTPHeader,
		// Its answer to OPTIONS * would leave the connection open.
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     log.New(io.Discard, "", 0), // of what clients do wrong
		BaseContext:                  func(net.Listener) context.Context { return s.life },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c)
		},
		ConnState: func(c net.Conn, state http.ConnState) {
			switch state {
			case http.StateClosed:
				c.(*conn).finish()
			case http.StateHijacked: // in the goroutine of ServeHTTP, which finishes
				c.(*conn).hijacked = true
			}
		},
	}
}

// ServeHTTP implements [http.Handler].
func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := r.Context().Value(connKey{}).(*conn)
	defer func() {
		if c.hijacked {
			c.finish()
		}
	}()
	switch {
	case r.URL.Host == "": // origin form: what pages can make a browser send
		s.servePAC(w, r)
	case !s.authorized(r):
		w.Header().Set("Proxy-Authenticate", `Basic realm="postern"`)
		s.page(w, http.StatusProxyAuthRequired, "this proxy wants its password")
	case r.Method == http.MethodConnect:
		s.tunnel(w, r, c)
	case r.URL.Scheme != "http":
		s.page(w, http.StatusBadRequest, "only http can be asked for in this way; for the rest there is CONNECT")
	default:
		s.forward.ServeHTTP(w, r)
	}
}

// page answers with a status and one sentence, and ends the connection: what follows a
// request that was refused is not read as another one.
func (s *server) page(w http.ResponseWriter, status int, text string) {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	if status != http.StatusProxyAuthRequired { // it is asked again on this one
		h.Set("Connection", "close")
	}
	// The rest of the request is read and thrown away: not for ever.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.limits.hello))
	w.WriteHeader(status)
	fmt.Fprintf(w, "postern: %s\n", text)
}

// authorized checks the password of a request.
func (s *server) authorized(r *http.Request) bool {
	if s.Password.IsZero() {
		return true
	}
	scheme, encoded, _ := strings.Cut(r.Header.Get("Proxy-Authorization"), " ")
	text, err := base64.StdEncoding.DecodeString(strings.TrimSpace(encoded))
	if err != nil || !strings.EqualFold(scheme, "Basic") {
		return false
	}
	user, password, _ := strings.Cut(string(text), ":")
	return s.Password.Is(user, password)
}

// tunnel is the method CONNECT.
func (s *server) tunnel(w http.ResponseWriter, r *http.Request, c *conn) {
	host, port, err := splitHostPort(r.URL.Host)
	if err != nil || r.ContentLength != 0 { // a body would be taken for the service's bytes
		s.page(w, http.StatusBadRequest, "want CONNECT HOST:PORT, without a body")
		return
	}
	remote, err := s.dial(r.Context(), host, port)
	if err != nil {
		s.page(w, explain(err).http, err.Error())
		return
	}
	_, early, err := http.NewResponseController(w).Hijack()
	if err != nil {
		remote.Close()
		return
	}
	// What the client sent without waiting is read once more.
	waiting, _ := early.Reader.Peek(early.Reader.Buffered())
	local := &resumed{conn: c, r: io.MultiReader(bytes.NewReader(bytes.Clone(waiting)), c)}
	if _, err := io.WriteString(c, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		remote.Close()
		return
	}
	_, _, _ = tunnel.Copy(s.life, local, remote) // both ends have seen what there was
}

// resumed is a connection with bytes that were read too early.
type resumed struct {
	*conn
	r io.Reader
}

// Read implements [net.Conn].
func (c *resumed) Read(b []byte) (int, error) { return c.r.Read(b) }

func splitHostPort(s string) (host string, port uint16, err error) {
	host, text, err := net.SplitHostPort(s)
	if err != nil {
		return "", 0, err
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err == nil && n == 0 {
		err = strconv.ErrRange
	}
	return host, uint16(n), err
}

// newForward makes what passes plain requests on, as they are but for what belongs to
// this hop.
func (s *server) newForward() *httputil.ReverseProxy {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.RawQuery = r.In.URL.RawQuery // also one that Go does not understand
			for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
				if values := r.In.Header.Values(name); len(values) > 0 {
					r.Out.Header[name] = values
				}
			}
		},
		Transport:     perClient{},
		FlushInterval: -1, // at once
		ErrorLog:      log.New(io.Discard, "", 0),
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() == nil {
				s.page(w, explain(err).http, err.Error())
			}
		},
	}
}

// perClient keeps the connections to services apart by the client's connection: one
// that has logged in to a service in a way that holds for the connection does not
// serve another client.
type perClient struct{}

// RoundTrip implements [http.RoundTripper].
func (perClient) RoundTrip(r *http.Request) (*http.Response, error) {
	c, ok := r.Context().Value(connKey{}).(*conn)
	if !ok {
		return nil, errors.New("the request has no connection")
	}
	return c.backends.RoundTrip(r)
}

func (s *server) newTransport() *http.Transport {
	return &http.Transport{
		DisableCompression:  true,
		MaxIdleConns:        maxBackends,
		MaxIdleConnsPerHost: maxBackends,
		IdleConnTimeout:     backendIdle,
		DialContext: func(ctx context.Context, _, target string) (net.Conn, error) {
			host, port, err := splitHostPort(target)
			if err != nil {
				return nil, fmt.Errorf("%w: %s", ErrName, target)
			}
			ctx, cancel := context.WithCancel(ctx) // the transport's own outlives its request
			defer cancel()
			stop := context.AfterFunc(s.life, cancel)
			defer stop()
			return s.dial(ctx, host, port)
		},
	}
}
