package controller

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-sdp/postern/controller/api"
	"github.com/postern-sdp/postern/controller/identity"
	"github.com/postern-sdp/postern/controller/policy"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/spa"
	"github.com/postern-sdp/postern/spa/key"
)

// directory holds in memory what a knock is judged by: identities, services and
// policy. The store has it first, then the directory, then the hints.
type directory struct {
	registry *identity.Registry
	book     *policy.Book
	file     string // policy file, or ""
	hints    *spa.Table[key.Knock]
	policy   atomic.Pointer[policy.Policy]

	change sync.Mutex     // held from the store to memory: one change at a time
	inFile []policy.Grant // of the policy file as last read; guarded by change

	mu       sync.RWMutex // guards what follows
	machines map[key.ID]identity.Machine
	tokens   map[key.ID]identity.Token
	services map[string]identity.Service
}

func newDirectory(r *identity.Registry, book *policy.Book, file string,
	now time.Time) (*directory, error) {
	d := &directory{
		registry: r, book: book, file: file, hints: spa.NewTable[key.Knock](now),
		machines: make(map[key.ID]identity.Machine),
		tokens:   make(map[key.ID]identity.Token),
		services: make(map[string]identity.Service),
	}
	for _, role := range []control.Role{control.RoleClient, control.RoleHost} {
		all, err := r.Machines(role)
		if err != nil {
			return nil, fmt.Errorf("load machines: %w", err)
		}
		for _, m := range all {
			d.putMachine(m)
		}
	}
	tokens, err := r.Tokens(now)
	if err != nil {
		return nil, fmt.Errorf("load join tokens: %w", err)
	}
	for _, t := range tokens {
		d.putToken(t)
	}
	services, err := r.Services()
	if err != nil {
		return nil, fmt.Errorf("load services: %w", err)
	}
	for _, s := range services {
		d.services[s.Name] = s
	}
	return d, d.readPolicy()
}

// readPolicy reads the policy file again. On an error the old policy stays.
func (d *directory) readPolicy() error {
	if d.file == "" {
		return d.compile(nil)
	}
	grants, err := policy.Load(d.file)
	if err != nil {
		return fmt.Errorf("load policy: %w", err)
	}
	return d.compile(grants)
}

// compile builds the whole new policy, then swaps. The file's grants are passed
// in, so that a grant is taken back by command also while the file has a fault.
func (d *directory) compile(inFile []policy.Grant) error {
	byCommand, err := d.book.List()
	if err != nil {
		return fmt.Errorf("load grants: %w", err)
	}
	compiled, err := policy.Compile(slices.Concat(inFile, byCommand)...)
	if err != nil {
		return fmt.Errorf("compile policy: %w", err)
	}
	d.inFile = inFile
	d.policy.Store(compiled)
	return nil
}

func (d *directory) putMachine(m identity.Machine) {
	d.mu.Lock()
	d.machines[m.ID] = m
	d.mu.Unlock()
	if m.Revoked.IsZero() {
		d.hints.Put(m.ID, m.Knock)
	} else {
		d.hints.Remove(m.ID)
	}
}

func (d *directory) putToken(t identity.Token) {
	d.mu.Lock()
	d.tokens[t.ID] = t
	d.mu.Unlock()
	d.hints.PutUntil(t.ID, t.Knock, t.Expires)
}

func (d *directory) dropToken(id key.ID) {
	d.hints.Remove(id)
	d.mu.Lock()
	delete(d.tokens, id)
	d.mu.Unlock()
}

// machine returns the live machine of that id.
func (d *directory) machine(id key.ID) (identity.Machine, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	m, ok := d.machines[id]
	return m, ok && m.Revoked.IsZero()
}

func (d *directory) token(id key.ID, now time.Time) (identity.Token, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	t, ok := d.tokens[id]
	return t, ok && now.Before(t.Expires)
}

// known reports whether id may come to the control port.
func (d *directory) known(id key.ID, now time.Time) bool {
	_, ok := d.who(id, now)
	return ok
}

func (d *directory) who(id key.ID, now time.Time) (api.Caller, bool) {
	if m, ok := d.machine(id); ok {
		return api.Caller{
			ID: m.ID, Role: m.Role, Name: m.Name, User: m.User, PublicKey: m.PublicKey,
		}, true
	}
	if t, ok := d.token(id, now); ok {
		return api.Caller{ID: t.ID, Role: t.Role, Name: t.Name, User: t.User, Joining: true}, true
	}
	return api.Caller{}, false
}

// judge implements [judge]. The unknown and the forbidden look alike.
func (d *directory) judge(device key.ID, service string, asked time.Duration,
	now time.Time) (verdict, bool) {
	m, ok := d.machine(device)
	if !ok || m.Role != control.RoleClient {
		return verdict{}, false
	}
	d.mu.RLock()
	s, ok := d.services[service]
	d.mu.RUnlock()
	if !ok {
		return verdict{}, false
	}
	if _, ok := d.machine(s.Host); !ok {
		return verdict{}, false
	}
	decision := d.policy.Load().Decide(policy.Request{
		User: m.User, Service: service, Asked: asked, Now: now,
	})
	return verdict{
		user: m.User, host: s.Host, target: s.Target, access: s.Access.Resolved(), until: decision.Until,
	}, decision.Allowed
}

// allServices returns a copy, in no order.
func (d *directory) allServices() []identity.Service {
	d.mu.RLock()
	defer d.mu.RUnlock()
	all := make([]identity.Service, 0, len(d.services))
	for _, s := range d.services {
		all = append(all, s)
	}
	return all
}

// forgetTokens drops the join tokens whose time is over, here and in the store.
func (d *directory) forgetTokens(now time.Time) error {
	d.change.Lock()
	defer d.change.Unlock()
	d.mu.RLock()
	over := false
	for _, t := range d.tokens {
		over = over || !now.Before(t.Expires)
	}
	d.mu.RUnlock()
	if !over {
		return nil // no write for nothing
	}
	gone, err := d.registry.ForgetTokens(now)
	if err != nil {
		return fmt.Errorf("forget join tokens: %w", err)
	}
	for _, id := range gone {
		d.dropToken(id)
	}
	return nil
}
