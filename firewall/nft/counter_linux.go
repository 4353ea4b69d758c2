package nft

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/postern-sdp/postern/firewall"
)

// The counters of what is dropped. They are objects of the table and outlive
// its rules.
const (
	droppedInput   = "dropped_input"
	droppedDoor    = "dropped_door"
	droppedForward = "dropped_forward"
	droppedOutput  = "dropped_output"
)

func (f *Firewall) queueCountersLocked() {
	for _, name := range []string{droppedInput, droppedDoor, droppedForward, droppedOutput} {
		f.conn.AddObj(&nftables.NamedObj{Table: f.table, Name: name,
			Type: nftables.ObjTypeCounter, Obj: &expr.Counter{}})
	}
}

func count(counter string) []expr.Any {
	return []expr.Any{&expr.Objref{Type: int(nftables.ObjTypeCounter), Name: counter}}
}

func (f *Firewall) dropped(ctx context.Context) (firewall.Dropped, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.usableLocked(ctx); err != nil {
		return firewall.Dropped{}, err
	}
	if err := f.installedLocked(); err != nil {
		return firewall.Dropped{}, err
	}
	if err := f.socket.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return firewall.Dropped{}, err
	}
	objects, err := f.conn.GetNamedObjects(f.table)
	if err != nil {
		return firewall.Dropped{}, errors.Join(explain(err), f.drainLocked())
	}
	return sum(objects)
}

// sum fails when one of the counters is not there.
func sum(objects []nftables.Obj) (firewall.Dropped, error) {
	packets := make(map[string]uint64)
	for _, o := range objects {
		named, ok := o.(*nftables.NamedObj)
		if !ok {
			continue
		}
		if counter, ok := named.Obj.(*expr.Counter); ok {
			packets[named.Name] = counter.Packets
		}
	}
	var d firewall.Dropped
	for name, to := range map[string]*uint64{droppedInput: &d.Input, droppedDoor: &d.Door,
		droppedForward: &d.Forward, droppedOutput: &d.Output} {
		n, there := packets[name]
		if !there {
			return firewall.Dropped{}, fmt.Errorf("%w: %s", ErrCounter, name)
		}
		*to = n
	}
	return d, nil
}
