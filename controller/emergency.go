package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/postern-sdp/postern/controller/api"
	"github.com/postern-sdp/postern/controller/store"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/logkeys"
	"github.com/postern-sdp/postern/spa/key"
)

const (
	emergencyBucket = "emergencies" // HOST/PLACE -> emergencyRecord
	// maxEmergencies is how many records of one host are kept: the newest ones.
	maxEmergencies = 1000
	maxHash        = 64 // characters of a report's hash
)

// emergencyRecord is what a host told, as it is kept.
type emergencyRecord struct {
	Host     key.ID                  `json:"host"`
	Received time.Time               `json:"received"`
	Report   control.EmergencyReport `json:"report"`
}

// told takes what a host tells of its emergency keys: it is loud, kept, and then
// acknowledged. A record that is known already is acknowledged again, and one that
// contradicts it does not take its place: a host that is taken over cannot unsay what
// it told. A report that makes no sense is counted and otherwise ignored.
func (c *Controller) told(l *link, host string, r control.EmergencyReport) {
	if !sensible(r) {
		c.counters.badReports.Add(1)
		return
	}
	fresh, err := c.keepEmergency(emergencyRecord{l.host, time.Now().Round(0).UTC(), r})
	switch {
	case errors.Is(err, errContradicts):
		c.counters.badReports.Add(1)
		c.log.Error("host contradicts what it told of emergency access", logkeys.Host, l.host,
			logkeys.Name, host, logkeys.Number, r.Record.Sequence)
		c.loud(l.host, host, r.Record)
	case err != nil:
		c.log.Error("emergency access not kept, it will be told again", logkeys.Host, l.host,
			logkeys.Error, err)
		return
	case fresh:
		c.counters.emergencies.Add(1)
		c.loud(l.host, host, r.Record)
	}
	l.post(control.ToHost{Told: &control.Told{Sequence: r.Record.Sequence}})
}

// sensible reports whether r is a report that a host of ours makes.
func sensible(r control.EmergencyReport) bool {
	return r.Record.Sequence > 0 && r.Record.Event.Valid() && len(r.Hash) <= maxHash &&
		!r.Record.Key.IsZero()
}

// loud logs a record: what opened a port, or should have, at level ERROR.
func (c *Controller) loud(id key.ID, host string, r control.EmergencyRecord) {
	level := slog.LevelWarn
	if r.Event == control.EmergencyAccepted || r.Event == control.EmergencyFailed {
		level = slog.LevelError
	}
	c.log.Log(context.Background(), level, "EMERGENCY KEY at a host", logkeys.Kind, string(r.Event),
		logkeys.Host, id, logkeys.Name, host, logkeys.Key, r.Key, logkeys.Count, r.Counter,
		logkeys.Service, printable(r.Service), logkeys.Target, printable(r.Port.String()),
		logkeys.Source, r.Source, logkeys.Deadline, r.Until, logkeys.Number, r.Sequence)
}

// keepEmergency writes a record in the place of the one that was told maxEmergencies
// before it, and reports whether it is new.
func (c *Controller) keepEmergency(r emergencyRecord) (fresh bool, err error) {
	r.Report.Record.Note = printable(r.Report.Record.Note)
	r.Report.Record.Service = printable(r.Report.Record.Service)
	r.Report.Record.Source = r.Report.Record.Source.WithZone("")
	place := fmt.Sprintf("%s/%04d", r.Host, r.Report.Record.Sequence%maxEmergencies)
	err = c.store.Update(func(tx store.Tx) error {
		old, err := store.Get[emergencyRecord](tx, emergencyBucket, place)
		switch {
		case errors.Is(err, store.ErrNotFound):
		case err != nil:
			return err
		case old.Report.Record.Sequence > r.Report.Record.Sequence:
			return errContradicts // its number was given back long ago
		case old.Report.Record.Sequence < r.Report.Record.Sequence:
		case old.Report.Hash != r.Report.Hash:
			return errContradicts
		default:
			return nil
		}
		fresh = true
		return store.Put(tx, emergencyBucket, place, r)
	})
	return fresh && err == nil, err
}

// Emergencies implements [api.Administration].
func (a administration) Emergencies(context.Context) ([]api.EmergencyInfo, error) {
	infos := []api.EmergencyInfo{}
	err := a.store.View(func(tx store.Tx) error {
		return tx.Each(emergencyBucket, func(place string, _ []byte) error {
			r, err := store.Get[emergencyRecord](tx, emergencyBucket, place)
			infos = append(infos, api.EmergencyInfo{
				Host: r.Host, Name: a.hostName(r.Host), Received: r.Received,
				Record: r.Report.Record, Hash: r.Report.Hash,
			})
			return err
		})
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(infos, func(x, y api.EmergencyInfo) int {
		return cmp.Or(x.Received.Compare(y.Received), cmp.Compare(x.Record.Sequence, y.Record.Sequence))
	})
	return infos, nil
}

// hostName returns the name of a host, its id when it was removed.
func (a administration) hostName(id key.ID) string {
	a.directory.mu.RLock()
	defer a.directory.mu.RUnlock()
	if m, ok := a.directory.machines[id]; ok {
		return m.Name
	}
	return id.String()
}
