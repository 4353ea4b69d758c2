package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/postern-sdp/postern/client"
	"github.com/postern-sdp/postern/client/profile"
)

// How this program talks:
//   - standard output is data: what a command was asked for, and nothing else; with
//     connect --stdio it is the service's bytes;
//   - standard error is talk: "postern: " and one sentence, lower case, no full
//     stop; "hint: " lines say what to do next;
//   - a secret is never written to either.

func (p program) sayf(format string, args ...any) {
	fmt.Fprintf(p.talk, "postern: "+format+"\n", args...)
}

func (p program) hintf(format string, args ...any) {
	fmt.Fprintf(p.talk, "hint: "+format+"\n", args...)
}

// waitingAfter is the silence after which a person is told what is waited for.
const waitingAfter = 1500 * time.Millisecond

// waiting tells a person at a terminal what is waited for, if it takes long. The
// caller calls stop when it has come.
func (p program) waiting(what string) (stop func()) {
	if !isTerminal(p.talk) {
		return func() {}
	}
	timer := time.AfterFunc(waitingAfter, func() { p.sayf("waiting for %s", what) })
	return func() { timer.Stop() }
}

const controllersAnswer = "the controller's answer (Ctrl-C gives up)"

// complain writes an error, line by line, and what to do about it.
func (p program) complain(err error) {
	for line := range strings.Lines(err.Error()) {
		p.sayf("%s", strings.TrimRight(line, "\n"))
	}
	for _, hint := range hints(err) {
		p.hintf("%s", hint)
	}
}

// kinds are the exit codes' names for programs.
var kinds = map[int]string{
	exitUsage: "usage", exitDenied: "denied", exitNoAnswer: "no-answer", exitNotEnrolled: "not-enrolled",
	exitEnded: "ended", exitUnreachable: "unreachable",
}

type errorJSON struct {
	Error string   `json:"error"`
	Kind  string   `json:"kind"`
	Code  int      `json:"code"`
	Hints []string `json:"hints"`
}

// complainJSON writes an error as one line of JSON.
func (p program) complainJSON(err error) error {
	code := exitCode(err)
	said := errorJSON{err.Error(), cmp.Or(kinds[code], "failed"), code, hints(err)}
	if said.Hints == nil {
		said.Hints = []string{}
	}
	return json.NewEncoder(p.talk).Encode(said)
}

// silence is an error of nobody answering, with what a person needs to find out why.
type silence struct {
	error
	now       time.Time
	knocked   []string
	expires   time.Time // of the device's certificate, or of the join token
	enrolling bool
}

// Unwrap returns the error.
func (e silence) Unwrap() error { return e.error }

func isSilence(err error) bool {
	return errors.Is(err, client.ErrNoAnswer) || errors.Is(err, client.ErrNoAddress)
}

// explain adds to err what the device knows of itself, when nobody answered.
func explain(c *client.Client, err error) error {
	if err == nil || !isSilence(err) {
		return err
	}
	s := c.Status()
	return silence{error: err, now: time.Now(), knocked: s.Addresses, expires: s.Expires}
}

func hints(err error) []string {
	var quiet silence
	var usage usageError
	var status *client.StatusError
	var helped hinted
	switch {
	case errors.As(err, &helped):
		return []string{helped.command}
	case errors.As(err, &quiet):
		return quiet.hints()
	case errors.As(err, &usage), errors.Is(err, profile.ErrName):
		return []string{"postern COMMAND --help shows what there is"}
	case errors.Is(err, client.ErrStillShut):
		return emergencyHints()
	case errors.Is(err, client.ErrPublicListen):
		return []string{"listen on 127.0.0.1, or add --listen-anyone if others shall use your session"}
	case errors.Is(err, client.ErrNotEnrolled):
		return []string{"get an invitation from your administrator, then: postern enroll -",
			"postern profile list shows the identities that this device has"}
	case errors.Is(err, client.ErrEnrolled):
		return []string{"to have both identities, enrol under a name of its own: postern enroll --profile NAME",
			"to enrol anew, first: postern profile remove"}
	case errors.Is(err, profile.ErrNone):
		return []string{"postern profile list shows what there is"}
	case errors.Is(err, client.ErrJoinToken):
		return []string{"your administrator makes one with: postern-controller token create --role client --invitation"}
	case errors.Is(err, client.ErrTokenRole):
		return []string{"ask your administrator for a client's join token; " +
			"a host's is for postern-host enroll"}
	case errors.As(err, &status):
		return []string{"the controller's administrator and its log know more; " +
			"a join token works once only"}
	case client.IsDenied(err):
		return []string{"postern services lists what you may reach; your administrator grants more"}
	case client.IsHostOffline(err):
		return []string{"the service's machine is down, cut off or refuses this: " +
			"its administrator can see why with postern-host status, and in its log"}
	case errors.Is(err, client.ErrUnreachable):
		return []string{"the host let you in, but the service behind it does not answer: " +
			"is it running?"}
	case errors.Is(err, client.ErrHostSilent):
		return []string{"the host's door is open for the address that the controller saw; " +
			"a firewall on the way may drop UDP to the host", "postern doctor SERVICE tries each step"}
	case errors.Is(err, client.ErrNoControl):
		return []string{"knocks arrive, but the control port does not answer: " +
			"a firewall on the way may drop UDP to it", "postern doctor tries each step"}
	case isSilence(err):
		return []string{"postern doctor finds out why"}
	case errors.Is(err, client.ErrCertificate):
		return []string{"if the controller refuses to renew it, " +
			"ask for a new join token and enrol again"}
	}
	return nil
}

// hints are what to check when nobody answers, the likeliest first. Silence is all
// that a controller gives to a knock it does not accept, so it cannot tell.
func (e silence) hints() (all []string) {
	all = []string{
		fmt.Sprintf("check, in this order: 1. the clock: it is %s here; it may be at most 90s off",
			e.now.UTC().Format("2006-01-02 15:04:05 UTC")),
		"2. the address: " + strings.Join(e.knocked, ", ") + " is where the controller was knocked at",
		"3. the network: UDP to port " + ports(e.knocked) + " must get out of here; another network may let it",
	}
	if !e.enrolling {
		defer func() { all = append(all, "postern doctor finds out which") }()
	}
	when := e.expires.Local().Format(time.DateTime)
	over := e.now.After(e.expires)
	switch {
	case e.enrolling && over:
		return append(all, "4. expiry: the join token was good until "+when+": ask for a new one")
	case e.enrolling:
		return append(all, "4. expiry: the join token is good until "+when+", and for one enrolment only")
	case over:
		return append(all, "4. expiry: this device's certificate ended "+when+
			"; its administrator may have removed the device")
	}
	return append(all, "4. expiry: this device's certificate is good until "+when+
		", but its administrator may have removed the device")
}

func ports(addresses []string) string {
	var all []string
	for _, a := range addresses {
		if _, port, err := net.SplitHostPort(a); err == nil {
			all = append(all, port)
		}
	}
	return strings.Join(all, ", ")
}
