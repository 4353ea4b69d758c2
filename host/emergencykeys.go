package host

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/postern-sdp/postern/internal/bootclock"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/spa/key"
)

// awaitClosed bounds the wait for the agent to follow a command.
const awaitClosed = 5 * time.Second

// EmergencyKeyInfo is one emergency key without its secret.
type EmergencyKeyInfo struct {
	ID      key.ID              `json:"id"`
	Service string              `json:"service"`
	Port    control.ServicePort `json:"port"`
	For     control.Duration    `json:"for"`
	Uses    uint64              `json:"uses"`
	Used    uint64              `json:"used"`
	Created time.Time           `json:"created"`
}

// CreateEmergencyKey makes an emergency key of the host whose state folder it is, and
// completes k, which says all but host, id and secret. The host keeps only what
// recognises the key's knocks. show gets the key before it is good for anything; its
// error takes the key back.
func CreateEmergencyKey(folder string, k control.EmergencyKey,
	show func(control.EmergencyKey) error) (control.EmergencyKey, error) {
	identity, err := control.LoadIdentity(folder)
	if err != nil {
		return control.EmergencyKey{}, err
	}
	k.Host, k.Name = identity.ID, identity.Name
	k.ID, k.Secret = key.NewID(), key.NewEmergency()
	if err := k.Validate(); err != nil {
		return control.EmergencyKey{}, err
	}
	_, err = emergencyStore{folder}.change(func(s *emergencyState) ([]control.EmergencyRecord, error) {
		if len(s.Keys) >= maxEmergencyKeys {
			return nil, ErrEmergencyMany
		}
		if err := show(k); err != nil {
			return nil, err
		}
		made := emergencyKey{
			ID: k.ID, Service: k.Service, Port: k.Port, For: control.Duration(k.For), Uses: k.Uses,
			Created: time.Now().Round(0).UTC(), Verifier: emergencyVerifier{k.Secret.Verifier()},
		}
		s.Keys = append(s.Keys, made)
		return []control.EmergencyRecord{made.record(control.EmergencyCreated)}, nil
	})
	return k, err
}

func (k emergencyKey) record(event control.EmergencyEvent) control.EmergencyRecord {
	return control.EmergencyRecord{
		Time: time.Now().Round(0).UTC(), Event: event, Key: k.ID, Service: k.Service, Port: k.Port,
	}
}

// EmergencyKeys returns the emergency keys of the host whose state folder it is.
func EmergencyKeys(folder string) ([]EmergencyKeyInfo, error) {
	state, err := emergencyStore{folder}.load()
	if err != nil {
		return nil, err
	}
	return state.infos(), nil
}

func (s *emergencyState) infos() []EmergencyKeyInfo {
	infos := make([]EmergencyKeyInfo, 0, len(s.Keys))
	for _, k := range s.Keys {
		infos = append(infos, EmergencyKeyInfo{k.ID, k.Service, k.Port, k.For, k.Uses, k.Used, k.Created})
	}
	return infos
}

// RevokeEmergencyKey makes a key worthless and closes what it opened. An agent that
// runs follows at once. It returns [ErrNoEmergency] when there is no such key.
func RevokeEmergencyKey(folder string, id key.ID) error {
	_, err := emergencyStore{folder}.change(func(s *emergencyState) ([]control.EmergencyRecord, error) {
		k := s.key(id)
		if k == nil {
			return nil, ErrNoEmergency
		}
		records := []control.EmergencyRecord{k.record(control.EmergencyRevoked)}
		records = append(records, s.close(func(o emergencyOpening) bool { return o.Key == id })...)
		s.Keys = slices.DeleteFunc(s.Keys, func(k emergencyKey) bool { return k.ID == id })
		return records, nil
	})
	return err
}

// CloseEmergency closes what emergency keys opened: one opening, or all when id is
// zero. It returns how many it closed, and [ErrNoEmergency] when there is none of
// that id. An agent that runs follows at once; one that does not, when it starts.
func CloseEmergency(folder string, id key.ID) (int, error) {
	boot, err := bootclock.ID()
	if err != nil {
		return 0, err
	}
	closed := 0
	_, err = emergencyStore{folder}.change(func(s *emergencyState) ([]control.EmergencyRecord, error) {
		s.prune(boot, bootClock())
		records := s.close(func(o emergencyOpening) bool { return id.IsZero() || o.ID == id })
		closed = len(records)
		if closed == 0 {
			return nil, ErrNoEmergency
		}
		return records, nil
	})
	if id.IsZero() && errors.Is(err, ErrNoEmergency) {
		return 0, nil
	}
	return closed, err
}

// AwaitEmergencyClosed waits until the running agent has none open that the state
// folder says is closed or whose key is gone, for 5 s at most. It returns
// [ErrNotRunning] when no agent runs.
func AwaitEmergencyClosed(ctx context.Context, s Settings) error {
	ctx, cancel := context.WithTimeout(ctx, awaitClosed)
	defer cancel()
	tick := time.NewTicker(emergencyLook / 5)
	defer tick.Stop()
	for {
		state, err := emergencyStore{s.State}.load()
		if err != nil {
			return err
		}
		status, err := ReadStatus(ctx, s.StatusSocket)
		if err != nil {
			return err
		}
		closed := func(o EmergencyOpeningStatus) bool {
			return !slices.ContainsFunc(state.Openings, func(x emergencyOpening) bool {
				return x.ID == o.ID && !x.Closed
			})
		}
		if !slices.ContainsFunc(status.Emergency.Openings, closed) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ErrNotClosed
		case <-tick.C:
		}
	}
}

// close marks the openings that which says as closed, and returns their records.
func (s *emergencyState) close(which func(emergencyOpening) bool) []control.EmergencyRecord {
	var records []control.EmergencyRecord
	for i, o := range s.Openings {
		if o.Closed || !which(o) {
			continue
		}
		s.Openings[i].Closed = true
		records = append(records, o.record(control.EmergencyClosed))
	}
	return records
}

func (o emergencyOpening) record(event control.EmergencyEvent) control.EmergencyRecord {
	return control.EmergencyRecord{
		Time: time.Now().Round(0).UTC(), Event: event, Key: o.Key, Opening: o.ID, Counter: o.Counter,
		Service: o.Service, Port: o.Port, Source: o.Source, Until: o.Deadline,
	}
}

// String returns the key's number and what it is for.
func (k EmergencyKeyInfo) String() string {
	return fmt.Sprintf("%s for %s (%s)", k.ID, k.Service, k.Port)
}
