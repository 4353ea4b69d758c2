package fwtest

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/internal/testkit"
)

// crowd is how many openings for others there are when a change is timed, and
// burst how many are made in one.
const (
	crowd = 100_000
	burst = 1000
)

// Bench times a backend: changes while 100,000 others are open, a burst of 1,000
// in one change, and what a packet costs with 1, 1,000 and 100,000 openings.
func Bench(b *testing.B, New func() (firewall.Firewall, error)) {
	testkit.RequireRoot(b)
	b.Run("change", func(b *testing.B) { benchChange(b, New) })
	b.Run("burst", func(b *testing.B) { benchBurst(b, New) })
	b.Run("packet", func(b *testing.B) {
		PacketCost(b, []int{1, 1000, crowd}, func(b *testing.B, host *testkit.Namespace,
			open []firewall.Pinhole) {
			openAll(b, newFilled(b, host, New), open)
		})
	})
}

// others are openings for exact ports of sources that nobody has, as those of
// so many sessions.
func others(count int) []firewall.Pinhole {
	list := make([]firewall.Pinhole, count)
	source := netip.MustParseAddr("10.0.0.0")
	for i := range list {
		source = source.Next()
		list[i] = exact(firewall.UDP, netip.AddrPortFrom(source, 40000), portA)
		list[i].TTL = time.Hour
	}
	return list
}

func newFilled(b *testing.B, host *testkit.Namespace,
	create func() (firewall.Firewall, error)) firewall.Firewall {
	b.Helper()
	var fw firewall.Firewall
	var err error
	host.Do(b, func() { fw, err = create() })
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { fw.Close() })
	if err := fw.Install(context.Background(), firewall.Rules{}); err != nil {
		b.Fatal(err)
	}
	return fw
}

func openAll(b *testing.B, fw firewall.Firewall, all []firewall.Pinhole) {
	b.Helper()
	for chunk := range slices.Chunk(all, 5000) {
		if err := fw.Apply(context.Background(), firewall.Change{Open: chunk}); err != nil {
			b.Fatal(err)
		}
	}
}

// quantiles reports how long calls took, in microseconds.
func quantiles(b *testing.B, name string, took []time.Duration) {
	slices.Sort(took)
	for _, q := range []int{50, 99} {
		at := took[min(len(took)-1, len(took)*q/100)]
		b.ReportMetric(float64(at)/float64(time.Microsecond), fmt.Sprintf("%s-p%d-µs", name, q))
	}
}

// betweenChanges is about how far apart knocks are on a host with a crowd; what
// the kernel tidies up after one change does not run into the next.
const betweenChanges = 300 * time.Microsecond

func benchChange(b *testing.B, create func() (firewall.Firewall, error)) {
	fw := newFilled(b, testkit.Netns(b), create)
	openAll(b, fw, others(crowd))
	p := exact(firewall.UDP, netip.MustParseAddrPort("192.0.2.1:40000"), portA)
	changes := []firewall.Change{{Open: []firewall.Pinhole{p}}, {Revoke: []firewall.Pinhole{p}}}
	took := make([][]time.Duration, len(changes))
	// The control is as much plain computing: what it is late, the machine was busy.
	var control []time.Duration
	work := make([]byte, 40<<10)
	tick := time.NewTicker(betweenChanges)
	defer tick.Stop()
	for b.Loop() {
		for i, c := range changes {
			<-tick.C
			began := time.Now()
			if err := fw.Apply(context.Background(), c); err != nil {
				b.Fatal(err)
			}
			took[i] = append(took[i], time.Since(began))
		}
		<-tick.C
		began := time.Now()
		checksum(work)
		control = append(control, time.Since(began))
	}
	b.ReportMetric(0, "ns/op")
	quantiles(b, "open", took[0])
	quantiles(b, "close", took[1])
	quantiles(b, "control", control)
}

func benchBurst(b *testing.B, create func() (firewall.Firewall, error)) {
	fw := newFilled(b, testkit.Netns(b), create)
	all := others(crowd + burst)
	openAll(b, fw, all[:crowd])
	many := all[crowd:]
	var took []time.Duration
	for b.Loop() {
		began := time.Now()
		if err := fw.Apply(context.Background(), firewall.Change{Open: many}); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(began))
		if err := fw.Apply(context.Background(), firewall.Change{Revoke: many}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(0, "ns/op")
	quantiles(b, "burst", took)
}
