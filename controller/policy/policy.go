// Package policy decides who may reach which service, and for how long. What no
// grant allows is denied. A decision is a pure function of the request and the
// compiled policy.
package policy

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/postern-sdp/postern/controller/identity"
	"github.com/postern-sdp/postern/internal/config"
	"github.com/postern-sdp/postern/internal/control"
)

// Any stands for every user or every service in a grant.
const Any = "*"

// Bounds and default of a grant's length.
const (
	DefaultFor = 8 * time.Hour
	MinFor     = time.Second
	MaxFor     = 30 * 24 * time.Hour
)

// Errors of grants.
var (
	ErrFor      = errors.New("a grant's length is between 1s and 720h")
	ErrEmpty    = errors.New("a grant names at least one user and one service")
	ErrDeadline = errors.New("the session asked for is shorter than a second")
)

// Grant lets users reach services.
type Grant struct {
	Users    []string         `toml:"users" json:"users"`
	Services []string         `toml:"services" json:"services"`
	For      control.Duration `toml:"for" json:"for"` // the longest session; 0: DefaultFor
	// Origin says where the grant stands: a file's path, or "command".
	Origin string `toml:"-" json:"origin"`
}

// file is a policy file.
type file struct {
	Grant []Grant `toml:"grant"`
}

// Load reads the grants of a policy file (TOML). Errors name file and line.
func Load(path string) ([]Grant, error) {
	text, err := config.Read(path)
	if err != nil {
		return nil, err
	}
	var f file
	if err := config.Parse(path, text, &f); err != nil {
		return nil, err
	}
	lines := config.Lines(text, "grant")
	var faults []error
	for i := range f.Grant {
		origin := path
		if len(lines) == len(f.Grant) { // not when they stand in one list
			origin = fmt.Sprintf("%s:%d", path, lines[i])
		}
		f.Grant[i].Origin = origin
		if err := f.Grant[i].Validate(); err != nil {
			faults = append(faults, fmt.Errorf("%s: grant number %d: %w", origin, i+1, err))
		}
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	return f.Grant, nil
}

// Validate reports what is wrong with g.
func (g Grant) Validate() error {
	if len(g.Users) == 0 || len(g.Services) == 0 {
		return ErrEmpty
	}
	for _, name := range slices.Concat(g.Users, g.Services) {
		if name == Any {
			continue
		}
		if err := identity.CheckName(name); err != nil {
			return err
		}
	}
	if d := time.Duration(g.For); d != 0 && (d < MinFor || d > MaxFor) {
		return fmt.Errorf("%s: %w", d, ErrFor)
	}
	return nil
}

func (g Grant) length() time.Duration {
	if g.For == 0 {
		return DefaultFor
	}
	return time.Duration(g.For)
}

// Policy is a compiled set of grants. It never changes and is safe for concurrent use.
type Policy struct {
	grants []Grant
	// byUser has the numbers of the grants for a user, and byUser[Any] those for
	// everyone, in their order.
	byUser   map[string][]int
	services []map[string]bool // of each grant
}

// Compile makes a policy of grants that are valid.
func Compile(grants ...Grant) (*Policy, error) {
	for i, g := range grants {
		if err := g.Validate(); err != nil {
			return nil, fmt.Errorf("grant number %d (%s): %w", i+1, g.Origin, err)
		}
	}
	p := &Policy{grants: slices.Clone(grants), byUser: make(map[string][]int)}
	for i, g := range p.grants {
		services := make(map[string]bool)
		for _, s := range g.Services {
			services[s] = true
		}
		p.services = append(p.services, services)
		for _, u := range g.Users {
			if of := p.byUser[u]; len(of) == 0 || of[len(of)-1] != i { // named twice in one grant
				p.byUser[u] = append(of, i)
			}
		}
	}
	return p, nil
}

// Grants returns the grants that the policy was made of.
func (p *Policy) Grants() []Grant { return slices.Clone(p.grants) }

// Request is what is to be decided.
type Request struct {
	User    string
	Service string
	Asked   time.Duration // session length asked for; 0: as long as may be
	Now     time.Time
}

// Decision is policy's answer. The zero Decision denies.
type Decision struct {
	Allowed bool
	Until   time.Time // the deadline, when allowed
	Reasons []string  // for the administrator's log: which grant said what
}

// Decide judges r. The longest of the grants that cover it counts.
func (p *Policy) Decide(r Request) Decision {
	var longest time.Duration
	var reasons []string
	// Nobody is called Any, and no service is.
	if r.User != "" && r.User != Any && r.Service != "" && r.Service != Any {
		for _, list := range [][]int{p.byUser[r.User], p.byUser[Any]} {
			for _, i := range list {
				if g := p.grants[i]; p.services[i][r.Service] || p.services[i][Any] {
					longest = max(longest, g.length())
					reasons = append(reasons, fmt.Sprintf("granted for %s by %s", g.length(), g.Origin))
				}
			}
		}
	}
	if longest == 0 {
		return Decision{Reasons: []string{fmt.Sprintf("no grant lets %s reach %s", r.User, r.Service)}}
	}
	if r.Asked < 0 || r.Asked > 0 && r.Asked < MinFor {
		return Decision{Reasons: []string{ErrDeadline.Error()}}
	}
	if r.Asked > 0 {
		longest = min(longest, r.Asked)
	}
	return Decision{Allowed: true, Until: r.Now.Add(longest), Reasons: reasons}
}

// Unknown lists the services that grants name and that exist nowhere: most often
// a slip of the pen.
func (p *Policy) Unknown(services []string) []string {
	var missing []string
	for _, g := range p.grants {
		for _, s := range g.Services {
			if s != Any && !slices.Contains(services, s) && !slices.Contains(missing, s) {
				missing = append(missing, s)
			}
		}
	}
	return missing
}
