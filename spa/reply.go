package spa

import (
	"fmt"
	"time"

	"golang.org/x/crypto/chacha20poly1305"
)

const (
	replyGrant    byte = 1
	replyDenial   byte = 2
	replyHeadSize      = 1 + 1 + timeSize // version, kind, controller's time
	_                  = uint(replyPlainSize - replyHeadSize - grantSize)
	_                  = uint(replyPlainSize - replyHeadSize - denialSize)
)

// Reply is the controller's answer to an accepted knock. Exactly one of Grant and
// Denial is set.
type Reply struct {
	Time   time.Time // the controller's clock
	Grant  *Grant
	Denial *Denial
}

// SealReply seals the only answer to a. A second one is [ErrAnswered]: the same key
// and nonce would seal two plaintexts. An answer that has no form on the wire is an
// error and does not count. PROTOCOL 4.2
func (a *Accepted) SealReply(r Reply) ([]byte, error) {
	plain, err := appendReply(nil, r)
	if err != nil {
		return nil, err
	}
	aead, err := chacha20poly1305.New(a.reply.replyKey()[:])
	if err != nil {
		return nil, fmt.Errorf("seal reply: %w", err)
	}
	if a.answered.Swap(true) {
		return nil, fmt.Errorf("seal reply: %w", ErrAnswered)
	}
	var zero [chacha20poly1305.NonceSize]byte
	return aead.Seal(nil, zero[:], plain, nil), nil
}

// OpenReply opens the answer to this knock, and nothing else: any other datagram
// is [ErrReply]. PROTOCOL 4.1
func (p *Pending) OpenReply(datagram []byte) (Reply, error) {
	if len(datagram) != Size {
		return Reply{}, ErrReply
	}
	plain, err := p.open(datagram)
	if err != nil {
		return Reply{}, ErrReply
	}
	return parseReply(plain)
}

func (p *Pending) open(datagram []byte) ([]byte, error) {
	aead, err := chacha20poly1305.New(p.replyKey()[:])
	if err != nil {
		return nil, err
	}
	var zero [chacha20poly1305.NonceSize]byte
	return aead.Open(nil, zero[:], datagram, nil)
}

// appendReply appends the 240 bytes of r's plaintext.
//
//	version 1 | kind 1 | controller's time 8 | grant (kind 1) or denial (kind 2) | zero
func appendReply(dst []byte, r Reply) ([]byte, error) {
	n := len(dst)
	dst = append(dst, make([]byte, replyPlainSize)...)
	if err := writeReply(&writer{dst[n:]}, r); err != nil {
		return dst[:n], fmt.Errorf("encode reply: %w", err)
	}
	return dst, nil
}

func writeReply(w *writer, r Reply) error {
	w.byte(versionOne)
	switch {
	case !timely(r.Time):
		return ErrTime
	case r.Grant != nil && r.Denial == nil:
		w.byte(replyGrant)
		w.time(r.Time)
		return writeGrant(w, r.Grant)
	case r.Denial != nil && r.Grant == nil:
		w.byte(replyDenial)
		w.time(r.Time)
		return writeDenial(w, r.Denial)
	}
	return ErrReplyForm
}

func parseReply(b []byte) (Reply, error) {
	if len(b) != replyPlainSize {
		return Reply{}, ErrReply
	}
	r := reader{b}
	if r.byte() != versionOne {
		return Reply{}, ErrReply
	}
	kind := r.byte()
	t, okTime := r.time()
	reply, ok := Reply{Time: t}, false
	switch kind {
	case replyGrant:
		reply.Grant, ok = readGrant(&r)
	case replyDenial:
		reply.Denial, ok = readDenial(&r)
	}
	if !okTime || !ok || !r.end() { // PROTOCOL 4.3
		return Reply{}, ErrReply
	}
	return reply, nil
}
