package control

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/postern-sdp/postern/spa/key"
)

const (
	joinTokenPrefix  = "postern-join:"
	joinTokenVersion = 1
	maxJoinToken     = 4096 // characters
	maxController    = 64   // bytes, as the audience of a knock
	maxAddresses     = 8
	maxAddress       = 261 // bytes: a domain name of 255 and a port
)

// Errors of join tokens. None quotes the token: it is a secret.
var (
	ErrJoinToken = errors.New("not a join token: copy it whole, " +
		"from postern-join: or postern:// to its end")
	ErrJoinTokenLong    = errors.New("the controller's addresses are too long for a join token")
	ErrJoinTokenVersion = errors.New("the join token is of a newer version: update this program")
)

// JoinToken lets one machine enrol, once. It is a secret: whoever holds it before
// it is used can enrol in its place.
type JoinToken struct {
	Controller string               // the controller's name: the audience of knocks
	Addresses  []string             // host:port of the controller's knock port
	PublicKey  key.ControllerPublic // bodies of knocks are sealed to it
	Token      key.ID
	Knock      key.Knock // for this one enrolment
	Role       Role
	Expires    time.Time
	RootPin    [32]byte // SHA-256 of the root certificate's public key
}

// joinTokenText is the form under the base64url.
type joinTokenText struct {
	Version    int                  `json:"v"`
	Controller string               `json:"c"`
	Addresses  []string             `json:"a"`
	PublicKey  key.ControllerPublic `json:"k"`
	Token      key.ID               `json:"t"`
	Knock      []byte               `json:"s"`
	Role       Role                 `json:"r"`
	Expires    int64                `json:"e"` // Unix seconds
	RootPin    []byte               `json:"p"`
}

// Encode returns the token as one line of text.
func (t JoinToken) Encode() (string, error) {
	if err := t.validate(); err != nil {
		return "", fmt.Errorf("encode join token: %w", err)
	}
	b, err := json.Marshal(joinTokenText{
		Version: joinTokenVersion, Controller: t.Controller, Addresses: t.Addresses,
		PublicKey: t.PublicKey, Token: t.Token, Knock: t.Knock.RevealBytes(), Role: t.Role,
		Expires: t.Expires.Unix(), RootPin: t.RootPin[:],
	})
	if err != nil {
		return "", fmt.Errorf("encode join token: %w", err)
	}
	text := joinTokenPrefix + base64.RawURLEncoding.EncodeToString(b)
	if len(text) > maxJoinToken {
		return "", fmt.Errorf("encode join token: %w", ErrJoinTokenLong)
	}
	return text, nil
}

// ParseJoinToken reads what Encode or Invitation wrote, with white space around it.
func ParseJoinToken(text string) (JoinToken, error) {
	text = strings.TrimSpace(text)
	if strings.HasPrefix(text, invitationPrefix) {
		return parseInvitation(text)
	}
	body, ok := strings.CutPrefix(text, joinTokenPrefix)
	if !ok || len(text) > maxJoinToken {
		return JoinToken{}, ErrJoinToken
	}
	raw, err := base64.RawURLEncoding.DecodeString(body)
	if err != nil {
		return JoinToken{}, ErrJoinToken
	}
	var in joinTokenText
	if json.Unmarshal(raw, &in) != nil || len(in.RootPin) != 32 {
		return JoinToken{}, ErrJoinToken
	}
	if in.Version > joinTokenVersion {
		return JoinToken{}, ErrJoinTokenVersion
	}
	knock, err := key.KnockFromBytes(in.Knock)
	if err != nil {
		return JoinToken{}, ErrJoinToken
	}
	t := JoinToken{
		Controller: in.Controller, Addresses: in.Addresses, PublicKey: in.PublicKey, Token: in.Token,
		Knock: knock, Role: in.Role, Expires: time.Unix(in.Expires, 0), RootPin: [32]byte(in.RootPin),
	}
	if in.Version != joinTokenVersion || t.validate() != nil {
		return JoinToken{}, ErrJoinToken
	}
	return t, nil
}

func (t JoinToken) validate() error {
	if t.Controller == "" || len(t.Controller) > maxController || !plain(t.Controller) ||
		t.PublicKey.IsZero() || t.Token.IsZero() || t.Knock.IsZero() || !t.Role.Valid() || t.Expires.Unix() <= 0 ||
		t.RootPin == [32]byte{} || len(t.Addresses) == 0 || len(t.Addresses) > maxAddresses {
		return ErrJoinToken
	}
	for _, a := range t.Addresses {
		host, port, err := net.SplitHostPort(a)
		n, errPort := strconv.ParseUint(port, 10, 16)
		if err != nil || errPort != nil || n == 0 || host == "" || len(a) > maxAddress || !plain(a) {
			return ErrJoinToken
		}
	}
	return nil
}

// plain reports whether s has only what names and addresses are made of, so that
// it can be shown on a terminal.
func plain(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool {
		alphanumeric := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
		return !alphanumeric && !strings.ContainsRune("-._:[]%", r)
	})
}
