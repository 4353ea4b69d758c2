package controller

import (
	"sync/atomic"

	"github.com/postern-sdp/postern/spa"
)

// counters count what is never logged packet by packet.
type counters struct {
	knocks     [spa.ReasonCount]atomic.Uint64
	hostKnocks [spa.ReasonCount]atomic.Uint64
	granted    atomic.Uint64
	denied     atomic.Uint64
	busy       atomic.Uint64 // valid knocks turned away for lack of room

	emergencies atomic.Uint64 // records that hosts told
	badReports  atomic.Uint64 // reports of hosts that make no sense
}

func (c *counters) knock(r spa.Reason)     { c.knocks[r].Add(1) }
func (c *counters) hostKnock(r spa.Reason) { c.hostKnocks[r].Add(1) }

// byReason returns the counts that are not zero, by label.
func byReason(counts *[spa.ReasonCount]atomic.Uint64) map[string]uint64 {
	out := make(map[string]uint64)
	for i := range counts {
		if n := counts[i].Load(); n > 0 {
			out[spa.Reason(i).String()] = n
		}
	}
	return out
}
