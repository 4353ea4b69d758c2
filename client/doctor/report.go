package doctor

import "github.com/postern-sdp/postern/internal/control"

// State is the outcome of one step.
type State string

// The states.
const (
	OK   State = "ok"
	Warn State = "warn" // works, but look at it
	Fail State = "fail" // the access fails here
	Skip State = "skip" // could not be tried, or need not be
)

// Finding is one step's outcome.
type Finding struct {
	Name  string           `json:"name"`
	State State            `json:"state"`
	Found string           `json:"found"`
	Do    string           `json:"do,omitempty"` // what to do about it
	Took  control.Duration `json:"took,omitempty"`
}

// Report is a whole examination. Its JSON form only ever gains keys.
type Report struct {
	Findings []Finding `json:"checks"`
	Network  Network   `json:"network,omitempty"` // when it was looked at
	Verdict  string    `json:"verdict"`
	Warnings int       `json:"warnings"`
	Failures int       `json:"failures"`
	// Err is what the first step that failed ended with, nil when all is well.
	Err error `json:"-"`
}
