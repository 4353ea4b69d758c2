package tunnel

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/postern-sdp/postern/spa/key"
)

// Sizes and numbers on the wire.
const (
	headerSize    = 1 + key.IDSize // bytes
	maxAnswerText = 255            // bytes
)

// kind is what a stream carries, its header's first byte.
type kind byte

// The kinds. They are part of the protocol.
const (
	kindTCP kind = 1 // the bytes of one TCP connection
	kindUDP kind = 2 // one UDP flow
)

// appendHeader appends the header of a stream.
func appendHeader(dst []byte, k kind, session key.ID) []byte {
	dst = append(dst, byte(k))
	return append(dst, session[:]...)
}

// parseHeader reads what appendHeader writes, and nothing else.
func parseHeader(b []byte) (kind, key.ID, error) {
	if len(b) != headerSize {
		return 0, key.ID{}, fmt.Errorf("%w: a stream header has %d bytes, got %d",
			ErrProtocol, headerSize, len(b))
	}
	k, session := kind(b[0]), key.ID(b[1:])
	if k != kindTCP && k != kindUDP {
		return 0, key.ID{}, fmt.Errorf("%w: stream header of kind %d", ErrProtocol, k)
	}
	if session.IsZero() {
		return 0, key.ID{}, fmt.Errorf("%w: stream header without a session", ErrProtocol)
	}
	return k, session, nil
}

// readHeader reads one header and not a byte more.
func readHeader(r io.Reader) (kind, key.ID, error) {
	var b [headerSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return 0, key.ID{}, fmt.Errorf("read stream header: %w", err)
	}
	return parseHeader(b[:])
}

// appendAnswer appends the answer to a header; a nil refusal means yes.
func appendAnswer(dst []byte, refusal *RefusedError) []byte {
	if refusal == nil {
		return append(dst, byte(StatusOK))
	}
	status := refusal.Status
	if status == StatusOK {
		status = StatusDenied // a refusal never reads as a yes
	}
	text := clip(refusal.Text, maxAnswerText)
	dst = append(dst, byte(status), byte(len(text)))
	return append(dst, text...)
}

// readAnswer reads one answer and not a byte more. A refusal is a *RefusedError.
func readAnswer(r io.Reader) error {
	var b [maxAnswerText]byte
	if _, err := io.ReadFull(r, b[:1]); err != nil {
		return fmt.Errorf("read stream answer: %w", unexpected(err))
	}
	status := Status(b[0])
	if status == StatusOK {
		return nil
	}
	if _, err := io.ReadFull(r, b[:1]); err != nil {
		return fmt.Errorf("read stream answer: %w", unexpected(err))
	}
	text := b[:b[0]]
	if _, err := io.ReadFull(r, text); err != nil {
		return fmt.Errorf("read stream answer: %w", unexpected(err))
	}
	if !utf8.Valid(text) {
		return fmt.Errorf("%w: a refusal's text is not UTF-8", ErrProtocol)
	}
	return &RefusedError{Status: status, Text: string(text)}
}

// unexpected makes the end of the stream within an answer an error of its own:
// io.EOF would look like a stream that ended well.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// clip returns at most n bytes of text, valid UTF-8.
func clip(text string, n int) string {
	text = strings.ToValidUTF8(text, "?")
	if len(text) <= n {
		return text
	}
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n]
}
