package tunnel

import (
	"context"
	"log/slog"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/postern-sdp/postern/internal/logkeys"
	"github.com/postern-sdp/postern/spa/key"
)

// accepted is the host's end of one connection that was authorized.
type accepted struct {
	server   *Server
	ctx      context.Context // the connection's
	conn     *quic.Conn
	session  key.ID
	device   key.ID
	flows    *flows
	refusals *refusals
	log      *slog.Logger
}

// stream connects one stream as its header says, and carries it.
func (a *accepted) stream(s *Stream) {
	k, err := a.header(s)
	if err == nil {
		err = a.server.places.take(a.device)
	}
	if err != nil {
		a.refuse(s, err)
		return
	}
	defer a.server.places.leave(a.device)
	if k == kindUDP {
		a.udp(s)
		return
	}
	a.tcp(s)
}

// header reads a stream's header: what it carries, for this connection's session.
func (a *accepted) header(s *Stream) (kind, error) {
	if err := s.SetReadDeadline(time.Now().Add(headerTimeout)); err != nil {
		return 0, err
	}
	k, asked, err := readHeader(s)
	if err != nil {
		return 0, &RefusedError{Status: StatusMalformed, Text: "no stream header of this version"}
	}
	if asked != a.session { // PROTOCOL 8.1
		return 0, &RefusedError{Status: StatusDenied, Text: "another session's stream"}
	}
	return k, s.SetReadDeadline(time.Time{})
}

func (a *accepted) refuse(s *Stream, err error) {
	a.refusals.tell(err, time.Now())
	// The answer must arrive although nobody reads the rest of the request.
	_, _ = s.Write(appendAnswer(nil, refusal(err)))
	s.Close()
}

// tcp connects one stream and carries it.
func (a *accepted) tcp(s *Stream) {
	backend, err := a.connect()
	if err != nil {
		a.refuse(s, err)
		return
	}
	if _, err := s.Write(appendAnswer(nil, nil)); err != nil {
		reset(backend)
		s.Reset()
		return
	}
	in, out, err := Copy(a.ctx, s, backend)
	if err != nil {
		a.log.Debug("stream broke", logkeys.Error, err)
	}
	a.log.Debug("stream ended", logkeys.Bytes, in+out)
}

func (a *accepted) connect() (Duplex, error) {
	peer, err := a.server.peer(a.conn, a.session)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(a.ctx, connectTimeout)
	defer cancel()
	backend, err := a.server.config.Connect(ctx, peer)
	if err == nil && backend == nil {
		err = ErrUnreachable
	}
	return backend, err
}
