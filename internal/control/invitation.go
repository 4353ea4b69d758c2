package control

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/postern-sdp/postern/spa/key"
)

// An invitation is a join token as a link, postern://CONTROLLER/BODY: short enough
// for a QR code that fits a terminal. docs/PROTOCOL.md, section 10, has its bytes.
const (
	invitationPrefix   = "postern://"
	invitationVersion  = 1
	invitationChecksum = 4 // bytes, of a SHA-256

	roleByteClient = 1
	roleByteHost   = 2

	addressController = 0 // the controller's name
	addressIPv4       = 1
	addressIPv6       = 2
	addressName       = 3
)

// invitationError is an [ErrJoinToken] with words of its own.
type invitationError string

// Error implements error.
func (e invitationError) Error() string { return string(e) }

// Is makes errors.Is find ErrJoinToken.
func (e invitationError) Is(target error) bool { return target == ErrJoinToken }

// Errors of invitations. None quotes the invitation: it is a secret. Except for
// ErrInvitationName they are also [ErrJoinToken].
var (
	ErrInvitationShort error = invitationError(
		"the invitation is cut short: copy it whole, from postern:// to its end")
	ErrInvitationDamaged error = invitationError(
		"the invitation is damaged: a character of it is wrong, missing or too many; copy it anew")
	ErrInvitationName = errors.New("the controller's name cannot stand in an invitation: " +
		"lower-case letters, digits, '-' and '.' can")
)

// Invitation returns the token as one link. It is as secret as what Encode returns.
func (t JoinToken) Invitation() (string, error) {
	if err := t.validate(); err != nil {
		return "", fmt.Errorf("make invitation: %w", err)
	}
	if !linkName(t.Controller) {
		return "", fmt.Errorf("make invitation: %w", ErrInvitationName)
	}
	if t.Expires.Unix() > math.MaxUint32 {
		return "", fmt.Errorf("make invitation: it would expire after the year 2105: %w", ErrJoinToken)
	}
	role := byte(roleByteClient)
	if t.Role == RoleHost {
		role = roleByteHost
	}
	b := []byte{invitationVersion, role}
	b = binary.BigEndian.AppendUint32(b, uint32(t.Expires.Unix()))
	b = append(b, t.Token[:]...)
	b = append(b, t.Knock.RevealBytes()...)
	b = append(b, t.PublicKey[:]...)
	b = append(b, t.RootPin[:]...)
	b = append(b, byte(len(t.Addresses)))
	for _, a := range t.Addresses {
		if host, _, _ := net.SplitHostPort(a); len(host) > math.MaxUint8 {
			return "", fmt.Errorf("make invitation: %w", ErrJoinTokenLong)
		}
		b = appendAddress(b, t.Controller, a)
	}
	sum := invitationSum(t.Controller, b)
	b = append(b, sum[:]...)
	text := invitationPrefix + t.Controller + "/" + base64.RawURLEncoding.EncodeToString(b)
	if len(text) > maxJoinToken {
		return "", fmt.Errorf("make invitation: %w", ErrJoinTokenLong)
	}
	return text, nil
}

// appendAddress writes host:port, which is valid, in its shortest form. PROTOCOL 10.1
func appendAddress(b []byte, controller, address string) []byte {
	host, port, _ := net.SplitHostPort(address)
	n, _ := strconv.ParseUint(port, 10, 16)
	ip, err := netip.ParseAddr(host)
	switch isIP := err == nil && ip.Zone() == "" && ip.String() == host; {
	case host == controller:
		b = append(b, addressController)
	case isIP && ip.Is4():
		b = append(append(b, addressIPv4), ip.AsSlice()...)
	case isIP:
		b = append(append(b, addressIPv6), ip.AsSlice()...)
	default:
		b = append(b, addressName, byte(len(host)))
		b = append(b, host...)
	}
	return binary.BigEndian.AppendUint16(b, uint16(n))
}

// parseInvitation reads what Invitation wrote. Each token has one spelling. PROTOCOL 10.2
func parseInvitation(text string) (JoinToken, error) {
	rest, _ := strings.CutPrefix(text, invitationPrefix)
	name, body, ok := strings.Cut(rest, "/")
	if !ok && len(text) <= len(invitationPrefix)+maxController && (name == "" || linkName(name)) {
		return JoinToken{}, ErrInvitationShort
	}
	if !ok || !linkName(name) || len(text) > maxJoinToken {
		return JoinToken{}, ErrInvitationDamaged
	}
	if len(body)%4 == 1 { // base64 never has that length: the last character is half of something
		body = body[:len(body)-1]
	}
	raw, err := base64.RawURLEncoding.DecodeString(body)
	if err != nil {
		return JoinToken{}, ErrInvitationDamaged
	}
	if len(raw) > 0 && raw[0] > invitationVersion {
		return JoinToken{}, newerInvitation(name, raw)
	}
	r := &byteReader{rest: raw}
	t := r.joinToken(name)
	if r.take(invitationChecksum); r.short {
		return JoinToken{}, ErrInvitationShort
	}
	// A wrong checksum, what is left over, set bits behind the last byte and longer
	// forms of addresses all show here.
	if again, err := t.Invitation(); err != nil || r.wrong || again != text {
		return JoinToken{}, ErrInvitationDamaged
	}
	return t, nil
}

// newerInvitation tells a newer version from a version byte that got damaged: every
// version ends with the same checksum. PROTOCOL 10.3
func newerInvitation(name string, raw []byte) error {
	content, sum := raw[:max(0, len(raw)-invitationChecksum)], raw[max(0, len(raw)-invitationChecksum):]
	if want := invitationSum(name, content); !bytes.Equal(sum, want[:]) {
		return ErrInvitationDamaged
	}
	return ErrJoinTokenVersion
}

func invitationSum(name string, content []byte) [invitationChecksum]byte {
	h := sha256.New()
	h.Write([]byte(invitationPrefix + name + "/"))
	h.Write(content)
	return [invitationChecksum]byte(h.Sum(nil))
}

// linkName reports whether a controller's name can stand in a link as it is.
func linkName(name string) bool {
	return name != "" && len(name) <= maxController && !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '.'
	})
}

// byteReader takes fields from the front of rest. After a fault it gives zeros.
type byteReader struct {
	rest         []byte
	short, wrong bool
}

func (r *byteReader) take(n int) []byte {
	if r.short || n > len(r.rest) {
		r.short = true
		return make([]byte, n)
	}
	taken := r.rest[:n]
	r.rest = r.rest[n:]
	return taken
}

func (r *byteReader) joinToken(controller string) JoinToken {
	t := JoinToken{Controller: controller}
	r.wrong = r.take(1)[0] != invitationVersion
	switch r.take(1)[0] {
	case roleByteClient:
		t.Role = RoleClient
	case roleByteHost:
		t.Role = RoleHost
	default:
		r.wrong = true
	}
	t.Expires = time.Unix(int64(binary.BigEndian.Uint32(r.take(4))), 0)
	t.Token = key.ID(r.take(key.IDSize))
	var err error
	if t.Knock, err = key.KnockFromBytes(r.take(key.Size)); err != nil {
		r.wrong = true
	}
	t.PublicKey = key.ControllerPublic(r.take(key.Size))
	t.RootPin = [32]byte(r.take(len(t.RootPin)))
	for n := r.take(1)[0]; n > 0 && !r.short && !r.wrong; n-- {
		t.Addresses = append(t.Addresses, r.address(controller))
		r.wrong = r.wrong || len(t.Addresses) > maxAddresses
	}
	return t
}

func (r *byteReader) address(controller string) string {
	host := controller
	switch r.take(1)[0] {
	case addressController:
	case addressIPv4:
		host = netip.AddrFrom4([4]byte(r.take(4))).String()
	case addressIPv6:
		host = netip.AddrFrom16([16]byte(r.take(16))).String()
	case addressName:
		host = string(r.take(int(r.take(1)[0])))
	default:
		r.wrong = true
	}
	return net.JoinHostPort(host, strconv.Itoa(int(binary.BigEndian.Uint16(r.take(2)))))
}
