package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
)

// network is a way of the client's to the internet.
type network struct{ device, address, gateway string }

// networks of the client's, by the NAT behind which it is there.
var networks = map[string]network{
	"nat":  {"eth0", "10.7.0.2/24", "10.7.0.1"},
	"nat2": {"wlan0", "10.8.0.5/24", "10.8.0.1"},
}

// PrepareMoves gives the client a second network, behind nat2, which it is not in
// yet, and makes both NATs silent to what belongs to no flow, as those of the
// internet are. Call it once, before RebindNAT and MoveClient.
func (l *Lab) PrepareMoves(ctx context.Context) error {
	err := l.addLink(200, link{from: "client", fromName: networks["nat2"].device, to: "nat2", bridge: "lan"})
	if err != nil {
		return fmt.Errorf("link the client to nat2: %w", err)
	}
	if err := errors.Join(l.in("client", linksUp), l.in("nat2", linksUp)); err != nil {
		return err
	}
	for nat := range networks {
		const rules = "add table ip quiet; add chain ip quiet in { type filter hook input priority 0; }; " +
			"add rule ip quiet in iifname wan drop"
		if _, err := l.Run(ctx, nat, "nft", rules); err != nil {
			return fmt.Errorf("make %s silent: %w", nat, err)
		}
	}
	return nil
}

// MoveClient takes the client out of the network it is in and into the one behind
// the NAT named, as a laptop changes its Wi-Fi: another address and another route.
func (l *Lab) MoveClient(nat string) error {
	to, known := networks[nat]
	if !known {
		return fmt.Errorf("the client has no network behind %s", nat)
	}
	err := l.in("client", func() error {
		for name, from := range networks {
			if name == nat {
				continue
			}
			dev, err := netlink.LinkByName(from.device)
			if err != nil {
				return err
			}
			addresses, err := netlink.AddrList(dev, netlink.FAMILY_V4)
			if err != nil {
				return err
			}
			for _, a := range addresses { // the routes go with it
				if err := netlink.AddrDel(dev, &a); err != nil {
					return err
				}
			}
		}
		if err := configure(to.device, []string{to.address}); err != nil {
			return err
		}
		return netlink.RouteReplace(&netlink.Route{Gw: net.ParseIP(to.gateway)})
	})
	if err != nil {
		return fmt.Errorf("move the client behind %s: %w", nat, err)
	}
	return nil
}

// RebindNAT makes a NAT forget all its flows and choose their ports anew, out of
// another range than before: what a NAT does that was restarted, or that had no
// more room.
func (l *Lab) RebindNAT(ctx context.Context, nat string) error {
	shown, known := map[string]netip.Addr{"nat": NatV4, "nat2": Nat2ToOthers}[nat]
	if !known {
		return fmt.Errorf("%s is no NAT", nat)
	}
	l.rebinds++
	ports := "20000-29999"
	if l.rebinds%2 == 0 {
		ports = "30000-39999"
	}
	rules := "flush chain ip nat post; "
	if nat == "nat2" {
		rules += fmt.Sprintf("add rule ip nat post oifname wan ip daddr %s meta l4proto { tcp, udp } snat to %s:%s; ",
			HostV4, Nat2ToHost, ports)
	}
	rules += fmt.Sprintf("add rule ip nat post oifname wan meta l4proto { tcp, udp } snat to %s:%s", shown, ports)
	if _, err := l.Run(ctx, nat, "nft", rules); err != nil {
		return fmt.Errorf("change the ports of %s: %w", nat, err)
	}
	err := l.in(nat, func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) })
	if err != nil {
		return fmt.Errorf("make %s forget its flows: %w", nat, err)
	}
	return nil
}

// Port of the service that counts, and what the line to its host carries.
const (
	countPort = 7003
	lineRate  = 100_000_000 // bits a second
)

// Roam is a client at work while its path, or what it talks to, changes.
type Roam struct {
	*Lab
	// RTT is that of the line to the host.
	RTT time.Duration
	// Sleep is for how long the client sleeps, where it does: 3 s from NewRoam on.
	Sleep time.Duration
	// Slack is added to what stalls may take: a test proves that nothing is lost, and
	// that a transfer does not wait for a time-out; figures are for quiet machines.
	Slack time.Duration

	forward *Forward
	ends    chan *counter // of the host's side
	far     atomic.Int64  // the pace of the host's side, of the next transfer
	at      string        // behind which NAT the client is
}

// NewRoam starts the system on a standing lab, with a long line to the host, and
// one forward to a service that counts. Close ends the forward.
func NewRoam(ctx context.Context, l *Lab, rtt time.Duration) (*Roam, error) {
	r := &Roam{Lab: l, RTT: rtt, Sleep: 3 * time.Second, ends: make(chan *counter, 16), at: "nat"}
	if rtt > 0 {
		if err := l.LongLine("host", rtt/2, lineRate); err != nil {
			return nil, err
		}
	}
	if err := l.StartSystem(ctx); err != nil {
		return nil, err
	}
	if err := l.PrepareMoves(ctx); err != nil {
		return nil, err
	}
	err := l.Serve("host", fmt.Sprintf("127.0.0.1:%d", countPort), func(conn net.Conn) {
		c := count(conn, pace(r.far.Load()))
		select {
		case r.ends <- c:
		default:
			conn.Close() // nobody waits for so many
		}
		<-c.done
	})
	if err != nil {
		return nil, err
	}
	for _, args := range [][]string{
		{"service", "add", "--host", "host1", "--target", fmt.Sprintf("127.0.0.1:%d", countPort), "count"},
		{"grant", "add", "--for", "1h", "alice", "count"},
	} {
		if _, err := l.Admin(ctx, args...); err != nil {
			return nil, err
		}
	}
	r.forward, err = l.Connect(ctx, "client", "count")
	return r, err
}

// Close ends the forward.
func (r *Roam) Close() error {
	_ = r.forward.Signal(syscall.SIGCONT) // it may be gone
	return r.forward.Close()
}

// transfer opens a connection on which both ends count, and waits until they do.
func (r *Roam) transfer(ctx context.Context, up, down pace) (near, far *counter, err error) {
	r.far.Store(int64(down))
	for len(r.ends) > 0 {
		(<-r.ends).conn.Close() // of a connection that nobody took
	}
	conn, err := r.forward.Dial()
	if err != nil {
		return nil, nil, err
	}
	near = count(conn, up)
	select {
	case far = <-r.ends:
	case <-near.done:
		return nil, nil, fmt.Errorf("the connection ended: %w", near.Err())
	case <-ctx.Done():
		conn.Close()
		return nil, nil, context.Cause(ctx)
	}
	err = bothCome(ctx, near, far, 10*time.Second)
	if err != nil {
		conn.Close()
		far.conn.Close()
	}
	return near, far, err
}

// bothCome waits until bytes that were not sent yet have come to both ends.
func bothCome(ctx context.Context, near, far *counter, limit time.Duration) error {
	up, _ := near.totals()
	down, _ := far.totals()
	err := Wait(ctx, limit, "bytes to come both ways", func() (bool, error) {
		_, atFar := far.totals()
		_, atNear := near.totals()
		ended := near.Err() != nil || far.Err() != nil
		return ended || atFar > up && atNear > down, fmt.Errorf("%d of %d bytes up, %d of %d down", atFar, up, atNear, down)
	})
	return errors.Join(near.Err(), far.Err(), err)
}

// Change is one thing that happens while a transfer runs.
type Change struct {
	Name string
	// Limit of the stall beside two round trips, and beside what this machine, busy
	// with other things, let the transfer be silent before. With Breaks, the transfer
	// may break, and Limit is for the time until the next one runs through the same
	// forward.
	Limit  time.Duration
	Breaks bool
	// up and down are how fast the transfer goes each way.
	up, down pace
	// make lets it happen; begin is called at the moment from which on the stall counts.
	make func(ctx context.Context, begin func()) error
}

// Outcome is what a transfer felt of a Change.
type Outcome struct {
	Before time.Duration // the longest silence of the half second before
	Up     time.Duration // the longest silence at the host, from the change on
	Down   time.Duration // the longest silence at the client
	Bytes  int64         // of the whole transfer, both ways, each of them right
	Broke  error         // why the transfer broke, nil when it did not
	Back   time.Duration // until the next transfer ran, when this one broke
	Said   []string      // by the client's program
}

// Stall is the longer one.
func (o Outcome) Stall() time.Duration { return max(o.Up, o.Down) }

// String reads "stalled 93ms up, 41ms down (before: 12ms), 3.1 MB right".
func (o Outcome) String() string {
	ms := time.Millisecond
	text := fmt.Sprintf("stalled %s up, %s down (before: %s), %.1f MB right", o.Up.Round(ms), o.Down.Round(ms),
		o.Before.Round(ms), float64(o.Bytes)/1e6)
	if o.Broke != nil {
		text = fmt.Sprintf("broke after %s: %v; the next transfer ran after %s", o.Stall().Round(ms), o.Broke,
			o.Back.Round(ms))
	}
	if len(o.Said) > 0 {
		text += fmt.Sprintf("; the client said %q", o.Said)
	}
	return text
}

// giveUp is after which silence a transfer, or the way to the next one, is lost.
const giveUp = 60 * time.Second

// Try makes a change during a transfer. The error says that a promise is broken;
// the outcome is there all the same.
func (r *Roam) Try(ctx context.Context, c Change) (o Outcome, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*giveUp+time.Minute+r.Sleep)
	defer cancel()
	near, far, err := r.transfer(ctx, c.up, c.down)
	if err != nil {
		return o, fmt.Errorf("begin a transfer: %w", err)
	}
	defer func() {
		near.conn.Close()
		far.conn.Close()
		o.Said = r.forward.Said()
	}()
	r.forward.Said()
	near.mark()
	far.mark()
	time.Sleep(500 * time.Millisecond) // the transfer as it is without the change
	o.Before = max(near.stall(), far.stall())
	begun := time.Now()
	begin := func() { begun = time.Now(); near.mark(); far.mark() }
	begin()
	if err := c.make(ctx, begin); err != nil {
		return o, err
	}
	o.Broke = bothCome(ctx, near, far, giveUp)
	if o.Broke == nil {
		time.Sleep(500 * time.Millisecond) // a second stall counts too
		o.Up, o.Down = far.stall(), near.stall()
		o.Broke = near.settle(far, 10*time.Second)
	} else {
		o.Up, o.Down = far.stall(), near.stall()
	}
	_, up := far.totals()
	_, down := near.totals()
	o.Bytes = up + down
	if o.Broke == nil {
		if limit := c.Limit + 2*r.RTT + o.Before + r.Slack; !c.Breaks && o.Stall() > limit {
			return o, broken("the transfer stalled for %s, more than %s", o.Stall().Round(time.Millisecond),
				limit.Round(time.Millisecond))
		}
		return o, nil
	}
	near.conn.Close()
	if errors.Is(o.Broke, errPromise) { // a wrong byte is no broken connection
		return o, o.Broke
	}
	if err := r.back(ctx); err != nil {
		return o, broken("the transfer broke (%v), and no other one works: %v", o.Broke, err)
	}
	o.Back = time.Since(begun)
	if !c.Breaks {
		return o, broken("the transfer broke: %v", o.Broke)
	}
	if o.Back > c.Limit {
		return o, broken("the next transfer ran after %s, more than %s", o.Back.Round(time.Millisecond), c.Limit)
	}
	return o, nil
}

// back waits until a new transfer runs through the same forward.
func (r *Roam) back(ctx context.Context) error {
	return Wait(ctx, giveUp, "a new transfer", func() (bool, error) {
		ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		near, far, err := r.transfer(ctx, steadily, steadily)
		if err != nil {
			return false, err
		}
		return true, near.settle(far, 10*time.Second)
	})
}

// Changes are all that can happen to a transfer without its breaking, or with it
// where that cannot be otherwise.
func (r *Roam) Changes() []Change {
	return append(r.Interruptions(), r.PathChanges()...)
}

// pathLimit is what a change of the path may cost beside two round trips.
const pathLimit = 200 * time.Millisecond

// PathChanges are those of the client's address or port as the host sees them.
func (r *Roam) PathChanges() []Change {
	move := func(_ context.Context, begin func()) error {
		begin()
		return r.move()
	}
	rebind := func(ctx context.Context, begin func()) error {
		begin()
		return r.RebindNAT(ctx, r.at)
	}
	return []Change{
		{Name: "the NAT forgets the client and chooses another port", Limit: pathLimit, make: rebind},
		{Name: "the NAT does that during an upload at full speed", Limit: pathLimit, up: flatOut, make: rebind},
		{Name: "the NAT does that during a download at full speed", Limit: pathLimit, down: flatOut, make: rebind},
		{Name: "the client moves to another network", Limit: pathLimit, make: move},
		{Name: "and back", Limit: pathLimit, make: move},
		{Name: fmt.Sprintf("the client sleeps for %s and wakes in another network", r.Sleep), Limit: pathLimit,
			make: func(ctx context.Context, begin func()) error { return r.sleep(ctx, begin, r.move) }},
		{Name: "the controller is killed, and the client moves", Limit: pathLimit,
			make: func(ctx context.Context, begin func()) error {
				if err := r.controller.Kill(); err != nil {
					return err
				}
				begin()
				return errors.Join(r.move(), r.StartController(ctx))
			}},
	}
}

// Interruptions are those that leave the path as it is.
func (r *Roam) Interruptions() []Change {
	return []Change{
		{Name: fmt.Sprintf("the client sleeps for %s", r.Sleep), Limit: pathLimit,
			make: func(ctx context.Context, begin func()) error {
				return r.sleep(ctx, begin, func() error { return nil })
			}},
		{Name: "the controller is killed and started again", Limit: pathLimit,
			make: func(ctx context.Context, begin func()) error {
				begin()
				if err := r.controller.Kill(); err != nil {
					return err
				}
				return r.StartController(ctx)
			}},
		{Name: "the host's agent is killed and started again", Limit: 10 * time.Second, Breaks: true,
			make: func(ctx context.Context, begin func()) error {
				if err := r.host.Kill(); err != nil {
					return err
				}
				if err := r.StartHost(ctx); err != nil {
					return err
				}
				begin()
				return nil
			}},
	}
}

// move brings the client to the network that it is not in.
func (r *Roam) move() error {
	to := "nat2"
	if r.at == to {
		to = "nat"
	}
	r.at = to
	return r.MoveClient(to)
}

// sleep stops the client's program for a while, as the lid of a laptop does; what
// happens meanwhile is done. It begins with the waking.
func (r *Roam) sleep(ctx context.Context, begin func(), meanwhile func() error) error {
	if err := r.forward.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	var err error
	select {
	case <-time.After(r.Sleep):
		err = meanwhile()
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	begin()
	return errors.Join(err, r.forward.Signal(syscall.SIGCONT))
}
