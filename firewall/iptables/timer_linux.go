package iptables

import (
	"errors"
	"net/netip"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// trialTimer is the timer of Rules.Trial.
const trialTimer = "trial"

func keepTimer(i int) string { return strconv.Itoa(i) }

// longTimer is one that lasts for longer than the kernel counts. It is set anew now
// and then, while there is an agent; without one it ends early, after 24 days.
type longTimer struct {
	set   string
	v6    bool
	until time.Duration // on the clock of Firewall.now
}

// rearmEvery is how often long timers are set anew.
const rearmEvery = time.Hour

// bootTime goes on while the machine sleeps: a long timer ends on a date.
func bootTime() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) // every kernel with IP sets has it
	return time.Duration(t.Nano())
}

// startTimersLocked makes the sets of the timers, and tells w which of them are long.
// While a set holds all addresses, its timer is running.
func (f *Firewall) startTimersLocked(w *writer) error {
	left := map[string]time.Duration{}
	if w.rules.Trial > 0 {
		left[trialTimer] = w.rules.Trial
	}
	for i, k := range w.rules.Keep {
		if k.TTL > 0 {
			left[keepTimer(i)] = k.TTL
		}
	}
	for what, left := range left {
		for _, v6 := range families() {
			set := f.name.set(timer{w.timers, what}.set(v6))
			if err := f.sets.create(set, networkSet(v6), 0, true); err != nil {
				return err
			}
			if err := f.sets.add(set, everybody(v6, wholeSeconds(left))...); err != nil {
				return err
			}
			if left > longestTimeout {
				w.long = append(w.long, longTimer{set, v6, f.now() + left})
			}
		}
	}
	return nil
}

// rearm gives long timers what is left of their time, as much of it as the kernel takes.
// The last time it is all of it, and from then on the kernel's alone to count.
func (f *Firewall) rearm() error {
	now := f.now()
	due := f.memory.dueTimers(now)
	if len(due) == 0 {
		return nil
	}
	var long []longTimer
	for _, t := range due {
		left := t.until - now
		err := f.sets.add(t.set, everybody(t.v6, wholeSeconds(left))...)
		if errors.Is(err, errMissing) {
			continue // another process has installed other rules since
		}
		if err != nil {
			return err
		}
		if left > longestTimeout {
			long = append(long, t)
		}
	}
	f.memory.keepTimers(long, now)
	return nil
}

// everybody is all addresses of a family, in halves: the kernel refuses a prefix
// of length 0.
func everybody(v6 bool, timeout time.Duration) []element {
	halves := []string{"0.0.0.0", "128.0.0.0"}
	if v6 {
		halves = []string{"::", "8000::"}
	}
	var list []element
	for _, h := range halves {
		list = append(list, element{address: netip.MustParseAddr(h), bits: 1, timeout: timeout})
	}
	return list
}

// wholeSeconds rounds down; but to the kernel no seconds at all are for ever.
func wholeSeconds(left time.Duration) time.Duration {
	return min(max(left.Truncate(time.Second), time.Second), longestTimeout)
}
