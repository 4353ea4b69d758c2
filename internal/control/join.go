package control

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/postern-sdp/postern/spa/key"
)

// JoinConfig is an enrolment.
type JoinConfig struct {
	Token  JoinToken
	Role   Role   // what this program is; a token for another role is refused
	Folder string // where the identity goes
	Name   string // the machine's own name, a proposal

	Timeout time.Duration // of each knock; 0: KnockTimeout
}

// joinAttempts is how often an enrolment is tried when the answer got lost. The
// key stays the same, so the controller gives the same answer again.
const joinAttempts = 2

// Join redeems a join token: it makes a key, gets the identity and stores it. A
// failed enrolment leaves nothing behind. The errors are those of [Dial], a
// [*StatusError] when the controller refuses, [ErrEnrolled] when the folder holds
// an identity already, and [ErrTokenOver].
func Join(ctx context.Context, c JoinConfig) (*Enrolled, error) {
	if HasIdentity(c.Folder) {
		return nil, fmt.Errorf("%w: there is an identity in %s", ErrEnrolled, c.Folder)
	}
	if c.Token.Role != c.Role {
		return nil, fmt.Errorf("%w: the join token is for a %s, not a %s", ErrRole, c.Token.Role, c.Role)
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	request, err := NewEnrollRequest(private, c.Token.Token, c.Name)
	if err != nil {
		return nil, err
	}
	e, err := c.redeem(ctx, request, private)
	for i := 1; i < joinAttempts && retryJoin(ctx, err); i++ {
		e, err = c.redeem(ctx, request, private)
	}
	if err != nil {
		return nil, err
	}
	if err := SaveIdentity(c.Folder, e); err != nil {
		return nil, err
	}
	return e, nil
}

// retryJoin reports whether an enrolment failed on its way and not for a reason.
func retryJoin(ctx context.Context, err error) bool {
	_, refused := errors.AsType[*StatusError](err)
	_, denied := errors.AsType[*DeniedError](err)
	final := refused || denied || errors.Is(err, ErrNoAnswer) || errors.Is(err, ErrNoAddress) ||
		errors.Is(err, ErrAnswer) || errors.Is(err, ErrTokenOver) || errors.Is(err, ErrOtherEnd)
	return err != nil && !final && ctx.Err() == nil
}

func (c JoinConfig) redeem(ctx context.Context, request EnrollRequest,
	private *ecdsa.PrivateKey) (*Enrolled, error) {
	dial := c.Token.DialConfig()
	dial.Knock.Timeout = c.Timeout
	client, err := Dial(ctx, dial)
	if errors.Is(err, ErrNoAnswer) && time.Now().After(c.Token.Expires) {
		return nil, fmt.Errorf("%w: %w", ErrTokenOver, err)
	} else if err != nil {
		return nil, err
	}
	defer client.Close()
	response, err := client.Enroll(ctx, request)
	if err != nil {
		return nil, err
	}
	e, err := c.enrolled(response, private, time.Now().Add(client.Offset()))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	e.learn(client.answer)
	return e, nil
}

// enrolled checks the identity that the controller answered with.
func (c JoinConfig) enrolled(r EnrollResponse, private *ecdsa.PrivateKey,
	now time.Time) (*Enrolled, error) {
	secret, err := key.ParseKnock(r.KnockSecret)
	if err != nil {
		return nil, err
	}
	root, err := x509.ParseCertificate(r.Authority)
	if err != nil {
		return nil, fmt.Errorf("parse the authority's certificate: %w", err)
	}
	if PublicKeyPin(root) != c.Token.RootPin {
		return nil, fmt.Errorf("%w: the authority is not the join token's", ErrCertificate)
	}
	if r.Role != c.Role || r.ID.IsZero() {
		return nil, fmt.Errorf("%w: identity of role %q", ErrRole, r.Role)
	}
	chain, err := parseChain(r.Certificates)
	if err != nil {
		return nil, err
	}
	e := &Enrolled{
		ID: r.ID, Name: r.Name, Role: r.Role, Controller: c.Token.controller(), Authority: root,
		secret: secret, signer: func() *ecdsa.PrivateKey { return private },
	}
	if err := e.check(chain, now); err != nil {
		return nil, err
	}
	e.mu.chain = chain
	return e, nil
}
