package control

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Lines reads the messages of an agent stream, one JSON object a line. A line
// longer than [MaxBody] is [ErrTooLong] and ends the stream.
type Lines struct{ s *bufio.Scanner }

// NewLines reads from r.
func NewLines(r io.Reader) *Lines {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 4096), MaxBody)
	return &Lines{s}
}

// ToHost reads the next order. At the end of the stream the error is io.EOF.
func (l *Lines) ToHost() (ToHost, error) {
	var m ToHost
	if err := l.next(&m); err != nil {
		return ToHost{}, err
	}
	if !exactlyOne(m.Sync != nil, m.Open != nil, m.Close != nil, m.Ping != nil, m.Told != nil) {
		return ToHost{}, fmt.Errorf("%w: want exactly one of sync, open, close, ping, told", ErrMessage)
	}
	return m, nil
}

// FromHost reads the next message of a host. At the end of the stream the error is io.EOF.
func (l *Lines) FromHost() (FromHost, error) {
	var m FromHost
	if err := l.next(&m); err != nil {
		return FromHost{}, err
	}
	if !exactlyOne(m.Hello != nil, m.Ack != nil, m.Ended != nil, m.Emergency != nil) {
		return FromHost{}, fmt.Errorf("%w: want exactly one of hello, ack, ended, emergency", ErrMessage)
	}
	return m, nil
}

func (l *Lines) next(into any) error {
	for l.s.Scan() {
		line := bytes.TrimSpace(l.s.Bytes())
		if len(line) == 0 {
			continue
		}
		if err := json.Unmarshal(line, into); err != nil {
			return fmt.Errorf("%w: %w", ErrMessage, err)
		}
		return nil
	}
	if err := l.s.Err(); errors.Is(err, bufio.ErrTooLong) {
		return ErrTooLong
	} else if err != nil {
		return fmt.Errorf("read agent stream: %w", err)
	}
	return io.EOF
}

func exactlyOne(set ...bool) bool {
	n := 0
	for _, is := range set {
		if is {
			n++
		}
	}
	return n == 1
}
