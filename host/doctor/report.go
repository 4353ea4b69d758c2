package doctor

import "slices"

// State is the outcome of one check.
type State string

// The states.
const (
	OK   State = "ok"
	Warn State = "warn" // works, but look at it
	Fail State = "fail" // somebody cannot get in, or could who should not
	Skip State = "skip" // could not be looked at, or does not apply
)

// Finding is one check's outcome.
type Finding struct {
	Name  string `json:"name"`
	State State  `json:"state"`
	Found string `json:"found"`
	// Do is what to do about it, often a command; empty when nothing is to be done.
	Do string `json:"do,omitempty"`
}

// Report is a whole examination. Its JSON form only ever gains keys.
type Report struct {
	Findings []Finding `json:"checks"`
	// Doors are what listens or is sent on here, and who gets to it.
	Doors []Door `json:"doors"`
	// Stranger says in a sentence what somebody without a knock sees.
	Stranger string `json:"stranger"`
	Warnings int    `json:"warnings"`
	Failures int    `json:"failures"`
}

func (r *Report) add(f Finding) {
	r.Findings = append(r.Findings, f)
	switch f.State {
	case Warn:
		r.Warnings++
	case Fail:
		r.Failures++
	}
}

// Sight is who can reach a door.
type Sight string

// The values of Sight.
const (
	Dark    Sight = "dark"    // nobody but who has knocked
	Kept    Sight = "kept"    // the sources of keep rules
	Hidden  Sight = "hidden"  // nobody, thanks to somebody else's filter
	Visible Sight = "visible" // everybody
	Unsure  Sight = "unsure"  // it cannot be told
)

// Door is one port that something answers on.
type Door struct {
	Protocol string `json:"protocol"` // tcp or udp
	Address  string `json:"address"`  // that is listened on, or where it is sent on to
	Port     uint16 `json:"port"`
	// Last is the end of a range of ports that are sent on; 0: one port.
	Last uint16 `json:"last,omitempty"`
	// Program listens there; empty when it cannot be read.
	Program string `json:"program,omitempty"`
	// Published is set for a port that is sent on to a container or elsewhere.
	Published bool  `json:"published,omitempty"`
	Sees      Sight `json:"sees"`
	// Why names the keep rules or the filter.
	Why string `json:"why,omitempty"`
}

// count returns how many doors are seen so.
func count(doors []Door, s Sight) int {
	n := 0
	for _, d := range doors {
		if d.Sees == s {
			n++
		}
	}
	return n
}

// sorted puts what is visible first.
func sorted(doors []Door) []Door {
	order := []Sight{Visible, Unsure, Kept, Hidden, Dark}
	slices.SortStableFunc(doors, func(a, b Door) int {
		if c := slices.Index(order, a.Sees) - slices.Index(order, b.Sees); c != 0 {
			return c
		}
		return int(a.Port) - int(b.Port)
	})
	return doors
}
