package agent

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/postern-sdp/postern/client"
)

// What can be asked.
const (
	doDial   = "dial"
	doPacket = "packet" // dial, for datagrams
	doStatus = "status"
	doRetire = "retire" // take no more requests, end with the last connection
	doStop   = "stop"   // end now
)

// Bounds of what a peer may do. It is the same person's process, but may be broken.
const (
	maxLine     = 8 << 10 // bytes of a request
	maxAnswer   = 1 << 20 // bytes of an answer
	maxPeers    = 1024
	requestTime = 5 * time.Second
	maxService  = 64 // bytes of a name
)

type request struct {
	Version string `json:"version,omitempty"`
	Do      string `json:"do"`
	Service string `json:"service,omitempty"`
}

type answer struct {
	Error   *fault   `json:"error,omitempty"`
	Process *Process `json:"process,omitempty"`
}

// Process is what one process of this person's does.
type Process struct {
	Kind     string              `json:"kind"` // "agent", "connect", "proxy", "up"
	PID      int                 `json:"pid"`
	Version  string              `json:"version"`
	Started  time.Time           `json:"started"`
	Sessions []client.AccessInfo `json:"sessions"`
}

func send(conn net.Conn, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = conn.Write(append(b, '\n'))
	return err
}

var errLine = errors.New("the other end does not speak the agent's language")

// receive reads one line and not a byte more, since a service's bytes may follow.
func receive(r io.ByteReader, limit int, v any) error {
	var line []byte
	for {
		b, err := r.ReadByte()
		if err != nil {
			return err
		}
		if b == '\n' {
			break
		}
		if line = append(line, b); len(line) > limit {
			return errLine
		}
	}
	if err := json.Unmarshal(line, v); err != nil {
		return fmt.Errorf("%w: %w", errLine, err)
	}
	return nil
}

// peer is one connection of the local socket, read through a buffer.
type peer struct {
	*net.UnixConn
	r *bufio.Reader
}

func newPeer(conn *net.UnixConn) *peer { return &peer{conn, bufio.NewReaderSize(conn, 16<<10)} }

// Read implements [io.Reader].
func (p *peer) Read(b []byte) (int, error) { return p.r.Read(b) }

// ReadByte implements [io.ByteReader].
func (p *peer) ReadByte() (byte, error) { return p.r.ReadByte() }
