package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/logkeys"
)

const (
	bodyTimeout   = 10 * time.Second // to receive a whole request
	answerTimeout = 10 * time.Second
	jsonType      = "application/json"
)

// handler serves exactly what the caller may ask for; every other path is not
// there for it.
func (s *Server) handler(ctx context.Context, caller Caller) http.Handler {
	mux := http.NewServeMux()
	b := s.Broker
	renew := func() {
		handle(mux, "POST "+control.PathRenew, s.Log,
			func(c context.Context, in control.RenewRequest) (any, error) {
				return b.Renew(c, caller, in)
			})
	}
	switch {
	case caller.Joining:
		handle(mux, "POST "+control.PathEnroll, s.Log,
			func(c context.Context, in control.EnrollRequest) (any, error) {
				return b.Enroll(c, caller, in)
			})
	case caller.Expired:
		renew()
	case caller.Role == control.RoleHost:
		renew()
		mux.HandleFunc("POST "+control.PathAgent, func(w http.ResponseWriter, r *http.Request) {
			s.agent(ctx, caller, w, r)
		})
	case caller.Role == control.RoleClient:
		renew()
		handle(mux, "GET "+control.PathServices, s.Log, func(c context.Context, _ empty) (any, error) {
			return b.Services(c, caller)
		})
		handle(mux, "GET "+control.PathSessions, s.Log, func(c context.Context, _ empty) (any, error) {
			return b.Sessions(c, caller)
		})
		handle(mux, "POST "+control.PathClose, s.Log,
			func(c context.Context, in control.CloseRequest) (any, error) {
				return empty{}, b.CloseSession(c, caller, in.Session)
			})
	}
	return mux
}

// empty is a body without content.
type empty struct{}

// handle serves one path: the body, bounded, is parsed into In and the answer
// written as JSON.
func handle[In any](mux *http.ServeMux, pattern string, log *slog.Logger,
	do func(context.Context, In) (any, error)) {
	mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		_ = rc.SetReadDeadline(time.Now().Add(bodyTimeout)) // both servers have deadlines
		var in In
		if err := readBody(r.Body, &in); err != nil {
			writeError(w, log, r.Pattern, err)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), answerTimeout)
		defer cancel()
		out, err := do(ctx, in)
		if err != nil {
			writeError(w, log, r.Pattern, err)
			return
		}
		_ = rc.SetWriteDeadline(time.Now().Add(answerTimeout))
		writeJSON(w, http.StatusOK, out)
	})
}

// readBody parses a body of at most [control.MaxBody] bytes, read whole before
// anything in it is looked at. An empty body leaves into as it is.
func readBody(r io.Reader, into any) error {
	b, err := io.ReadAll(io.LimitReader(r, control.MaxBody+1))
	if err != nil {
		return fmt.Errorf("%w: read body: %w", ErrInvalid, err)
	}
	if len(b) > control.MaxBody {
		return ErrTooLarge
	}
	if len(b) == 0 {
		return nil
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return nil
}

func writeJSON(w http.ResponseWriter, code int, body any) {
	b, err := json.Marshal(body)
	if err != nil {
		code, b = http.StatusInternalServerError, []byte(`{"error":"the answer cannot be encoded"}`)
	}
	w.Header().Set("Content-Type", jsonType)
	w.WriteHeader(code)
	_, _ = w.Write(append(b, '\n')) // a caller that went away is no error of ours
}

// writeError tells the caller what concerns it; the log gets what does not.
func writeError(w http.ResponseWriter, log *slog.Logger, path string, err error) {
	code := status(err)
	if code == http.StatusInternalServerError {
		log.Error("request failed", logkeys.Path, path, logkeys.Error, err)
		err = ErrInternal
	}
	writeJSON(w, code, control.ErrorResponse{Error: err.Error()})
}

// agent turns the request into a stream, both ways, until it ends.
func (s *Server) agent(ctx context.Context, caller Caller, w http.ResponseWriter, r *http.Request) {
	rc := http.NewResponseController(w)
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	if err := rc.Flush(); err != nil {
		return
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(r.Context(), func() { cancel(context.Cause(r.Context())) })
	defer stop()
	stream := &httpStream{w: w, rc: rc, lines: control.NewLines(r.Body)}
	defer stream.Close()
	if err := s.Broker.Agent(ctx, caller, stream); err != nil && !errors.Is(err, io.EOF) {
		s.Log.Debug("agent stream ended", logkeys.Host, caller.ID, logkeys.Error, err)
	}
}

// httpStream is an [AgentStream] over one request.
type httpStream struct {
	w     http.ResponseWriter
	rc    *http.ResponseController
	lines *control.Lines
	mu    sync.Mutex // lets one Send write at a time
	buf   []byte
}

// Send implements [AgentStream].
func (h *httpStream) Send(order control.ToHost) (err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.buf, err = control.EncodeLine(h.buf[:0], order); err != nil {
		return err
	}
	if len(h.buf) > control.MaxBody {
		return ErrTooLarge
	}
	if _, err := h.w.Write(h.buf); err != nil {
		return fmt.Errorf("write order: %w", err)
	}
	if err := h.rc.Flush(); err != nil {
		return fmt.Errorf("write order: %w", err)
	}
	return nil
}

// Recv implements [AgentStream].
func (h *httpStream) Recv() (control.FromHost, error) { return h.lines.FromHost() }

// Close implements [AgentStream].
func (h *httpStream) Close() {
	past := time.Unix(1, 0)
	_ = h.rc.SetReadDeadline(past) // wake the reader and the writer; their errors tell
	_ = h.rc.SetWriteDeadline(past)
}
