package control

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"fmt"

	"github.com/postern-sdp/postern/spa/key"
)

// NewEnrollRequest signs a request for the identity of a join token with the
// joiner's own ECDSA P-256 key, which proves that the joiner holds it.
func NewEnrollRequest(signer crypto.Signer, token key.ID, name string) (EnrollRequest, error) {
	public, signature, err := signed(signer, EnrollContext, token)
	if err != nil {
		return EnrollRequest{}, err
	}
	return EnrollRequest{Token: token, Name: name, PublicKey: public, Signature: signature}, nil
}

// VerifyEnroll returns the public key of a request that was signed by its owner.
func VerifyEnroll(r EnrollRequest) (*ecdsa.PublicKey, error) {
	return verified(r.PublicKey, r.Signature, EnrollContext, r.Token)
}

// NewRenewRequest signs a request for a fresh certificate of identity id.
func NewRenewRequest(signer crypto.Signer, id key.ID) (RenewRequest, error) {
	public, signature, err := signed(signer, RenewContext, id)
	if err != nil {
		return RenewRequest{}, err
	}
	return RenewRequest{PublicKey: public, Signature: signature}, nil
}

// VerifyRenew returns the public key of a request that identity id signed with it.
func VerifyRenew(id key.ID, r RenewRequest) (*ecdsa.PublicKey, error) {
	return verified(r.PublicKey, r.Signature, RenewContext, id)
}

func digest(context string, id key.ID) []byte {
	sum := sha256.Sum256(append([]byte(context), id[:]...))
	return sum[:]
}

func signed(signer crypto.Signer, context string, id key.ID) (public, signature []byte, err error) {
	if _, err := p256(signer.Public()); err != nil {
		return nil, nil, err
	}
	public, err = x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		return nil, nil, fmt.Errorf("encode public key: %w", err)
	}
	signature, err = signer.Sign(rand.Reader, digest(context, id), crypto.SHA256)
	if err != nil {
		return nil, nil, fmt.Errorf("sign request: %w", err)
	}
	return public, signature, nil
}

func verified(public, signature []byte, context string, id key.ID) (*ecdsa.PublicKey, error) {
	parsed, err := x509.ParsePKIXPublicKey(public)
	if err != nil {
		return nil, fmt.Errorf("parse public key: %w", err)
	}
	k, err := p256(parsed)
	if err != nil {
		return nil, err
	}
	if !ecdsa.VerifyASN1(k, digest(context, id), signature) {
		return nil, ErrSignature
	}
	return k, nil
}

func p256(public crypto.PublicKey) (*ecdsa.PublicKey, error) {
	k, ok := public.(*ecdsa.PublicKey)
	if !ok || k.Curve != elliptic.P256() {
		return nil, ErrPublicKey
	}
	return k, nil
}
