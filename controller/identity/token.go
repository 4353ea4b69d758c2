package identity

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/postern-sdp/postern/controller/store"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/spa/key"
)

const (
	minTokenLife = time.Minute
	maxTokenLife = 30 * 24 * time.Hour
)

// TokenRequest says what a join token is for.
type TokenRequest struct {
	Role     control.Role
	User     string // of a client
	Name     string // of the machine; empty: the machine proposes one
	Lifetime time.Duration
}

// Token is a join token as the controller keeps it.
type Token struct {
	ID      key.ID       `json:"id"`
	Role    control.Role `json:"role"`
	User    string       `json:"user,omitempty"`
	Name    string       `json:"name,omitempty"`
	Created time.Time    `json:"created"`
	Expires time.Time    `json:"expires"`
	Used    key.ID       `json:"used"` // the machine that enrolled with it, or zero
	// Knock is its knock secret, until it expires: a joiner whose answer was lost
	// asks again. It is never part of JSON for people.
	Knock key.Knock `json:"-"`
}

// storedToken is the form in the store, with the secret.
type storedToken struct {
	Token
	Secret secret `json:"secret"`
}

func (s storedToken) open() (Token, error) {
	if s.Secret.IsZero() {
		return Token{}, fmt.Errorf("token %s: %w", s.ID, store.ErrCorrupt)
	}
	s.Token.Knock = s.Secret.Knock
	return s.Token, nil
}

// Spent reports whether the token can no longer serve to enrol anyone.
func (t Token) Spent(now time.Time) bool { return !t.Used.IsZero() || !now.Before(t.Expires) }

// CreateToken makes a join token.
func (r *Registry) CreateToken(q TokenRequest, now time.Time) (Token, error) {
	t := Token{
		ID: key.NewID(), Role: q.Role, User: q.User, Name: q.Name,
		Created: now.UTC(), Expires: now.Add(q.Lifetime).UTC(), Knock: key.NewKnock(),
	}
	if err := q.validate(); err != nil {
		return Token{}, fmt.Errorf("create token: %w", err)
	}
	err := r.store.Update(func(tx store.Tx) error {
		if q.Name != "" {
			if err := nameFree(tx, q.Role, q.Name); err != nil {
				return err
			}
		}
		return store.Put(tx, tokenBucket, t.ID.String(), storedToken{t, secret{t.Knock}})
	})
	if err != nil {
		return Token{}, fmt.Errorf("create token: %w", err)
	}
	return t, nil
}

func (q TokenRequest) validate() error {
	if !q.Role.Valid() {
		return ErrRole
	}
	if (q.User != "") != (q.Role == control.RoleClient) {
		return ErrUser
	}
	for _, name := range []string{q.User, q.Name} {
		if name != "" {
			if err := CheckName(name); err != nil {
				return err
			}
		}
	}
	if q.Lifetime < minTokenLife || q.Lifetime > maxTokenLife {
		return ErrLifetime
	}
	return nil
}

// Tokens lists the tokens that have not expired, used ones included.
func (r *Registry) Tokens(now time.Time) ([]Token, error) {
	var live []Token
	err := r.store.View(func(tx store.Tx) error {
		all, err := store.All[storedToken](tx, tokenBucket)
		for _, s := range all {
			if !now.Before(s.Expires) {
				continue
			}
			t, errOpen := s.open()
			if errOpen != nil {
				return errOpen
			}
			live = append(live, t)
		}
		return err
	})
	return live, err
}

// RevokeToken withdraws a token.
func (r *Registry) RevokeToken(id key.ID) error {
	return r.store.Update(func(tx store.Tx) error {
		if _, err := tx.Get(tokenBucket, id.String()); err != nil {
			return unknown(err, "token "+id.String())
		}
		return tx.Delete(tokenBucket, id.String())
	})
}

// ForgetTokens removes those that expired, and returns their ids.
func (r *Registry) ForgetTokens(now time.Time) ([]key.ID, error) {
	var gone []key.ID
	err := r.store.Update(func(tx store.Tx) error {
		gone = nil
		all, err := store.All[storedToken](tx, tokenBucket)
		if err != nil {
			return err
		}
		for _, t := range all {
			if !now.Before(t.Expires) {
				gone = append(gone, t.ID)
			}
		}
		for _, id := range gone {
			if err := tx.Delete(tokenBucket, id.String()); err != nil {
				return err
			}
		}
		return nil
	})
	return gone, err
}

// Redeem makes the machine that a token is for, and uses the token up, in one
// transaction. The caller has verified that the joiner holds the private half of
// publicKey (PKIX). The same key again, before the token expires, gets the same
// machine: its first answer may have been lost. Another key gets [ErrTokenUsed].
func (r *Registry) Redeem(id key.ID, proposed string, publicKey []byte, now time.Time) (
	Machine, error) {
	var m Machine
	err := r.store.Update(func(tx store.Tx) error {
		s, err := store.Get[storedToken](tx, tokenBucket, id.String())
		if err != nil {
			return unknown(err, "join token")
		}
		switch {
		case len(publicKey) == 0:
			return ErrPublicKey
		case !now.Before(s.Expires):
			return ErrTokenExpired
		case !s.Used.IsZero():
			m, err = machine(tx, s.Used)
			if err != nil || !bytes.Equal(m.PublicKey, publicKey) || !m.Revoked.IsZero() {
				return ErrTokenUsed
			}
			return nil
		}
		m, err = newMachine(tx, s.Token, proposed, publicKey, now)
		if err != nil {
			return err
		}
		s.Used = m.ID
		return store.Put(tx, tokenBucket, id.String(), s)
	})
	if err != nil {
		return Machine{}, fmt.Errorf("redeem token: %w", err)
	}
	return m, nil
}

func newMachine(tx store.Tx, t Token, proposed string, publicKey []byte, now time.Time) (
	Machine, error) {
	name := t.Name
	if name == "" {
		base := proposedName(proposed)
		name = base
		for n := 2; nameFree(tx, t.Role, name) != nil; n++ {
			if n > 999 {
				return Machine{}, fmt.Errorf("%s: %w", base, ErrTaken)
			}
			name = fmt.Sprintf("%s-%d", base, n)
		}
	}
	if err := nameFree(tx, t.Role, name); err != nil {
		return Machine{}, err
	}
	m := Machine{
		ID: key.NewID(), Role: t.Role, Name: name, User: t.User, PublicKey: publicKey,
		Created: now.UTC(), Knock: key.NewKnock(),
	}
	return m, errors.Join(putMachine(tx, m),
		tx.Put(nameBucket, nameKey(m.Role, m.Name), []byte(m.ID.String())))
}
