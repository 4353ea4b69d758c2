package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
)

// AgentStream is the stream between a host's agent and the controller, a message
// a line, both ways at once. One goroutine may send while another receives; Send
// is safe for concurrent use, Recv is not.
type AgentStream struct {
	cancel context.CancelCauseFunc
	ctx    context.Context
	body   *io.PipeWriter
	call   sync.WaitGroup // the request, until its response's header is there

	sending sync.Mutex // one line at a time

	response chan agentResponse // the header's arrival, once
	lines    *Lines             // set by the first Recv
	refused  error              // by the first Recv, too
}

type agentResponse struct {
	*http.Response
	err error
}

var errStreamClosed = errors.New("the agent stream is closed")

// Agent opens the stream. The controller's orders come by Recv; when it refuses
// the stream, the first Recv returns the [*StatusError]. The stream ends with ctx,
// with the connection, or by Close, which must be called.
func (c *Client) Agent(ctx context.Context) (*AgentStream, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	reader, writer := io.Pipe()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, origin+PathAgent, reader)
	if err != nil {
		cancel(err)
		return nil, fmt.Errorf("open agent stream: %w", err)
	}
	request.Header.Set("Content-Type", "application/x-ndjson")
	s := &AgentStream{cancel: cancel, ctx: ctx, body: writer, response: make(chan agentResponse, 1)}
	s.call.Go(func() {
		response, err := c.http.RoundTrip(request)
		if err != nil {
			reader.CloseWithError(err) // wakes a blocked Send
		}
		s.response <- agentResponse{response, err}
	})
	// The pipe does not know ctx.
	context.AfterFunc(ctx, func() { reader.CloseWithError(context.Cause(ctx)) })
	return s, nil
}

// Send writes one message. It blocks while the controller does not read.
func (s *AgentStream) Send(m FromHost) error {
	line, err := EncodeLine(nil, m)
	if err != nil {
		return err
	}
	if len(line) > MaxBody {
		return ErrTooLong
	}
	s.sending.Lock()
	defer s.sending.Unlock()
	if _, err := s.body.Write(line); err != nil {
		return fmt.Errorf("send to the controller: %w", err)
	}
	return nil
}

// Recv waits for the next order. At the stream's orderly end the error is io.EOF.
func (s *AgentStream) Recv() (ToHost, error) {
	if s.lines == nil && s.refused == nil {
		s.refused = s.begin()
	}
	if s.refused != nil {
		return ToHost{}, s.refused
	}
	m, err := s.lines.ToHost()
	if cause := context.Cause(s.ctx); err != nil && cause != nil {
		return ToHost{}, fmt.Errorf("read agent stream: %w", cause)
	}
	return m, err
}

// begin waits for the response's header.
func (s *AgentStream) begin() error {
	var r agentResponse
	select {
	case r = <-s.response:
	case <-s.ctx.Done():
		return fmt.Errorf("open agent stream: %w", context.Cause(s.ctx))
	}
	if r.err != nil {
		return fmt.Errorf("open agent stream: %w", r.err)
	}
	if r.StatusCode != http.StatusOK {
		defer r.Body.Close()
		return fmt.Errorf("open agent stream: %w", statusError(r.Response))
	}
	s.lines = NewLines(r.Body)
	return nil
}

// Close ends the stream in both directions and waits until nothing of it runs.
// A blocked Send or Recv returns. It may be called many times.
func (s *AgentStream) Close() error {
	s.cancel(errStreamClosed)
	s.body.CloseWithError(errStreamClosed)
	s.call.Wait()
	return nil
}
