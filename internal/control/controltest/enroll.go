package controltest

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/postern-sdp/postern/internal/control"
)

func (c *Controller) enroll(r *http.Request) (control.EnrollResponse, error) {
	var in control.EnrollRequest
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		return control.EnrollResponse{}, err
	}
	public, err := control.VerifyEnroll(in)
	if err != nil {
		return control.EnrollResponse{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.anyToken && in.Token != c.token.Token || c.used != nil && !bytes.Equal(c.used, in.PublicKey) {
		return control.EnrollResponse{}, errors.New("the join token was used already")
	}
	c.used = in.PublicKey
	return control.EnrollResponse{
		ID: c.device, Name: in.Name, Role: c.token.Role, KnockSecret: c.secret.Reveal(),
		Certificates: c.issueLocked(c.token.Role, public), Authority: c.Authority.Root.Raw,
	}, nil
}

// ServeAnyToken enrols whoever asks, with whatever join token.
func (c *Controller) ServeAnyToken(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	c.anyToken = true
	c.mu.Unlock()
	c.ServeHTTP(w, r)
}

func (c *Controller) renew(r *http.Request) (control.RenewResponse, error) {
	var in control.RenewRequest
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		return control.RenewResponse{}, err
	}
	if len(r.TLS.PeerCertificates) == 0 {
		return control.RenewResponse{}, errors.New("no certificate was presented")
	}
	public, err := control.VerifyRenew(c.device, in)
	if err != nil {
		return control.RenewResponse{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return control.RenewResponse{Certificates: c.issueLocked(c.token.Role, public)}, nil
}

func (c *Controller) issueLocked(role control.Role, public any) [][]byte {
	now := time.Now().Add(c.Skew)
	return [][]byte{c.Authority.Issue(role, c.device, public, now.Add(-c.Life/10), now.Add(c.Life)).Raw}
}
