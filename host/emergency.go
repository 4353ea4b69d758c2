package host

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/logkeys"
	"github.com/postern-sdp/postern/spa"
	"github.com/postern-sdp/postern/spa/key"
)

const (
	// emergencyLook is how often the agent looks for what the administrator's
	// commands have changed, and for openings whose deadline has come.
	emergencyLook = 250 * time.Millisecond
	// maxArrived is how many valid emergency knocks may wait to be acted upon.
	maxArrived = 8
	// maxReports is how many records the controller is sent before it acknowledges.
	maxReports = 64
)

// emergency is the agent's part of break-glass: it takes emergency knocks while no
// controller is about, and opens the key's port to the address they come from. One
// goroutine, run, does everything but the checking of datagrams.
type emergency struct {
	store    emergencyStore
	boot     string
	receiver *spa.EmergencyReceiver
	sessions *sessions
	now      clock
	grace    time.Duration // how long the host must be alone
	// alone returns for how long there has been no controller; ok is false when there is one.
	alone func() (alone time.Duration, ok bool)
	tell  func(control.FromHost)
	log   *slog.Logger

	arrived chan emergencyArrival
	linked  chan struct{} // one token: the controller is there
	acked   chan uint64
	counts  [spa.ReasonCount]atomic.Uint64

	// Only run uses these, and install before it.
	seen  os.FileInfo            // of the state when it was read
	fault error                  // why it could not be read
	sent  uint64                 // newest record told to the controller, or on its way
	spent map[key.ID]uint64      // counters whose use could not be written
	open  map[key.ID]emergencyAt // what this agent opened or adopted

	mu    sync.Mutex // guards what follows
	state emergencyState
	shown []emergencyOpening // what is open, for status
	// refused counts valid knocks at a host that was not alone, unwritten those that
	// could not be recorded, failed those the firewall could not be changed for.
	refused, unwritten, failed uint64
}

// emergencyArrival is a datagram that passed every check but that on the disk.
type emergencyArrival struct {
	knock  spa.EmergencyKnock
	source netip.Addr
}

// emergencyAt is one opening in the books of the pinholes.
type emergencyAt struct {
	opening emergencyOpening
	claim   claim
}

// newEmergency completes e, which says what surrounds it.
func newEmergency(e *emergency) *emergency {
	e.arrived = make(chan emergencyArrival, maxArrived)
	e.linked = make(chan struct{}, 1)
	e.acked = make(chan uint64, 1)
	e.spent = make(map[key.ID]uint64)
	e.open = make(map[key.ID]emergencyAt)
	return e
}

// take checks one datagram, and reports whether it was meant as an emergency knock.
// Anything else costs a look-up. It never blocks.
func (e *emergency) take(datagram []byte, source netip.AddrPort) bool {
	if !e.receiver.MayBeEmergency(datagram) {
		return false
	}
	knock, reason := e.receiver.Receive(datagram)
	e.counts[reason].Add(1)
	from := source.Addr().Unmap().WithZone("")
	if reason != spa.ReasonOK || opening(from, 0, 1).Validate() != nil {
		e.log.Debug("emergency knock dropped", logkeys.Source, source, logkeys.Reason, reason.String())
		return true
	}
	select {
	case e.arrived <- emergencyArrival{knock, from}:
	default: // its sender repeats it
	}
	return true
}

// controllerUp asks for telling the controller what it has not been told. It never
// blocks.
func (e *emergency) controllerUp() {
	select {
	case e.linked <- struct{}{}:
	default:
	}
}

// told takes the controller's acknowledgement of all records up to sequence.
func (e *emergency) told(ctx context.Context, sequence uint64) {
	select {
	case e.acked <- sequence:
	case <-ctx.Done():
	}
}

// adopt reads what an agent before this one left, and takes over those of its
// openings that the kernel still holds. It opens none, and closes those that were
// closed meanwhile. It is called before run and the sessions' owner.
func (e *emergency) adopt(ctx context.Context, kernel []firewall.Pinhole) error {
	if err := e.load(); err != nil {
		e.fault = err // run tries again
		return err
	}
	held := make(map[firewall.Pinhole]bool, len(kernel))
	for _, k := range kernel {
		held[k.Opening()] = true
	}
	var change firewall.Change
	now := e.now()
	for _, o := range e.state.Openings {
		c := o.claim()
		switch {
		case o.Boot != e.boot || o.Until <= now || !held[c.opening]:
		case o.Closed:
			change.Revoke = append(change.Revoke, c.opening)
		default:
			e.sessions.holes.add(o.ID, c)
			e.open[o.ID] = emergencyAt{o, c}
		}
	}
	e.show()
	if len(change.Revoke) == 0 {
		return nil
	}
	return e.sessions.transact(ctx, change)
}

func (o emergencyOpening) claim() claim {
	protocol := firewall.TCP
	if o.Port.Transport == control.TransportUDP {
		protocol = firewall.UDP
	}
	return claim{
		opening: firewall.Pinhole{Protocol: protocol, Source: o.Source, Port: o.Port.Port},
		until:   o.Until,
	}
}

// run acts on knocks, commands and deadlines until ctx ends. What is open then stays
// until its deadline, which the kernel keeps.
func (e *emergency) run(ctx context.Context) error {
	tick := time.NewTicker(emergencyLook)
	defer tick.Stop()
	e.follow()
	for {
		select {
		case <-ctx.Done():
			return nil
		case a := <-e.arrived:
			e.act(a)
		case <-tick.C:
			e.reload()
			e.follow()
		case <-e.linked:
			e.sent = 0 // what an earlier stream carried may not have arrived
			e.report()
		case sequence := <-e.acked:
			e.acknowledged(sequence)
		}
	}
}

// act decides on a valid knock. Whatever comes of it, its counter is used: a
// datagram that crossed the network once could otherwise be sent again later, by
// anybody who saw it and from where they like.
func (e *emergency) act(a emergencyArrival) {
	alone := e.isAlone()
	var record control.EmergencyRecord
	state, err := e.store.change(func(s *emergencyState) ([]control.EmergencyRecord, error) {
		k := s.key(a.knock.Key)
		if k == nil || k.Used >= a.knock.Counter || e.spent[k.ID] >= a.knock.Counter {
			return nil, errSpent
		}
		k.Used = a.knock.Counter
		s.prune(e.boot, e.now())
		o := k.open(a, e.boot, e.now())
		record = o.record(control.EmergencyAccepted)
		record.For = k.For
		if !alone {
			record.Event, record.Until = control.EmergencyRefused, time.Time{}
			record.Note = "the controller is, or was a moment ago, connected"
		} else {
			s.Openings = append(s.Openings, o)
		}
		return []control.EmergencyRecord{record}, nil
	})
	switch {
	case errors.Is(err, errSpent):
		e.counts[spa.ReasonReplay].Add(1)
	case err != nil:
		e.unrecorded(a, err)
	case !alone:
		e.counted(&e.refused)
		e.loud(slog.LevelWarn, "EMERGENCY ACCESS REFUSED: the controller is there", record)
		e.adoptState(state)
	default:
		e.loud(slog.LevelError, "EMERGENCY ACCESS", record)
		e.adoptState(state)
		e.follow() // PROTOCOL 9.7
	}
	if err == nil && e.connected() {
		e.report()
	}
}

// open returns what a knock opens at now.
func (k *emergencyKey) open(a emergencyArrival, boot string, now time.Duration) emergencyOpening {
	length := time.Duration(k.For)
	return emergencyOpening{
		ID: key.NewID(), Key: k.ID, Counter: a.knock.Counter, Service: k.Service, Port: k.Port,
		Source: a.source, Boot: boot, Until: now + length,
		Deadline: time.Now().Round(0).UTC().Add(length),
	}
}

// isAlone reports whether an emergency key works now.
func (e *emergency) isAlone() bool {
	alone, ok := e.alone()
	return e.grace == 0 || ok && alone >= e.grace
}

func (e *emergency) connected() bool {
	_, alone := e.alone()
	return !alone
}

// unrecorded keeps the host shut, as a use that is not on the disk could be used again.
func (e *emergency) unrecorded(a emergencyArrival, err error) {
	e.spent[a.knock.Key] = a.knock.Counter
	e.counted(&e.unwritten)
	e.log.Error("EMERGENCY ACCESS NOT OPENED: its use could not be recorded", logkeys.Key, a.knock.Key,
		logkeys.Count, a.knock.Counter, logkeys.Service, a.knock.Service, logkeys.Source, a.source,
		logkeys.Error, err)
}

func (e *emergency) counted(counter *uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	*counter++
}

func (e *emergency) loud(level slog.Level, message string, r control.EmergencyRecord) {
	e.log.Log(context.Background(), level, message, logkeys.Key, r.Key, logkeys.Count, r.Counter,
		logkeys.Service, r.Service, logkeys.Target, r.Port.String(), logkeys.Source, r.Source,
		logkeys.Session, r.Opening, logkeys.Deadline, r.Until)
}

// reload reads the state when a command has changed it.
func (e *emergency) reload() {
	info, err := os.Stat(e.store.path(emergencyName))
	if errors.Is(err, fs.ErrNotExist) && e.seen == nil && e.fault == nil {
		return
	}
	if err == nil && e.seen != nil && os.SameFile(info, e.seen) && info.ModTime().Equal(e.seen.ModTime()) {
		return
	}
	if err := e.load(); err != nil {
		if e.fault == nil || err.Error() != e.fault.Error() {
			e.log.Error("emergency keys not read, none works until they are", logkeys.Error, err)
		}
		e.fault, e.seen = err, nil // and is tried again
		e.receiver.Set(nil)
		return
	}
	e.fault = nil
	if e.connected() {
		e.report() // that a key was made or revoked
	}
}

// load reads the state.
func (e *emergency) load() error {
	info, err := os.Stat(e.store.path(emergencyName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	state, err := e.store.load()
	if err != nil {
		return err
	}
	e.seen = info // nil when there is none
	e.adoptState(state)
	return nil
}

// adoptState makes state the one that datagrams are judged by.
func (e *emergency) adoptState(state emergencyState) {
	keys := make([]spa.EmergencyKey, 0, len(state.Keys))
	for _, k := range state.Keys {
		keys = append(keys, spa.EmergencyKey{
			ID: k.ID, Verifier: k.Verifier.EmergencyVerifier, Service: k.Service,
			Used: max(k.Used, e.spent[k.ID]), Uses: k.Uses,
		})
	}
	e.receiver.Set(keys)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.state = state
}

// follow brings the pinholes to what the state says: it opens what is not open yet,
// and closes what a command closed, or whose deadline has come.
func (e *emergency) follow() {
	now := e.now()
	want := make(map[key.ID]emergencyAt)
	for _, o := range e.state.Openings { // run alone changes it
		if o.Boot == e.boot && !o.Closed && o.Until > now {
			want[o.ID] = emergencyAt{o, o.claim()}
		}
	}
	var gone []key.ID
	for id, at := range e.open {
		if _, ok := want[id]; !ok {
			gone = append(gone, id)
			e.log.Warn("emergency access over", logkeys.Session, id, logkeys.Service, at.opening.Service,
				logkeys.Source, at.opening.Source)
			delete(e.open, id)
		}
	}
	fresh := make(map[key.ID][]claim)
	for id, at := range want {
		if _, ok := e.open[id]; !ok {
			fresh[id] = []claim{at.claim}
		}
	}
	if len(gone) == 0 && len(fresh) == 0 {
		return
	}
	var fault error
	err := e.sessions.do(func(ctx context.Context) {
		if len(gone) > 0 {
			e.sessions.release(ctx, gone)
		}
		if len(fresh) > 0 {
			fault = e.sessions.apply(ctx, fresh)
		}
	})
	if err != nil {
		return // the agent is shutting down; the next one goes on from the state
	}
	for id := range fresh {
		if fault == nil {
			e.open[id] = want[id]
		} else {
			e.giveUp(want[id].opening, fault)
		}
	}
	e.show()
}

// show makes what is open known to status.
func (e *emergency) show() {
	shown := make([]emergencyOpening, 0, len(e.open))
	for _, at := range e.open {
		shown = append(shown, at.opening)
	}
	slices.SortFunc(shown, func(a, b emergencyOpening) int { return cmp.Compare(a.Until, b.Until) })
	e.mu.Lock()
	defer e.mu.Unlock()
	e.shown = shown
}

// giveUp closes an opening that the firewall could not be changed for. It does not
// open later, when nobody expects it.
func (e *emergency) giveUp(o emergencyOpening, fault error) {
	e.counted(&e.failed)
	e.log.Error("EMERGENCY ACCESS NOT OPENED: the firewall could not be changed",
		logkeys.Session, o.ID, logkeys.Service, o.Service, logkeys.Error, fault)
	state, err := e.store.change(func(s *emergencyState) ([]control.EmergencyRecord, error) {
		s.close(func(x emergencyOpening) bool { return x.ID == o.ID })
		r := o.record(control.EmergencyFailed)
		r.Note = "the firewall could not be changed"
		return []control.EmergencyRecord{r}, nil
	})
	if err != nil {
		e.log.Error("emergency access not recorded as failed", logkeys.Error, err)
		e.mu.Lock()
		e.state.close(func(x emergencyOpening) bool { return x.ID == o.ID })
		e.mu.Unlock()
		return
	}
	e.adoptState(state)
}

// report sends the controller what it has not acknowledged, as far as it is not on its
// way, and so much at most that it acknowledges before there is more.
func (e *emergency) report() {
	room := maxReports - int(e.sent-min(e.sent, e.state.Told))
	reports, err := e.store.reports(max(e.state.Told, e.sent), room)
	if err != nil {
		e.log.Error("emergency audit not told to the controller", logkeys.Error, err)
	}
	for _, r := range reports {
		e.sent = r.Record.Sequence
		e.tell(control.FromHost{Emergency: &r})
	}
}

// acknowledged remembers what the controller has been told, and goes on telling.
func (e *emergency) acknowledged(sequence uint64) {
	if sequence <= e.state.Told || sequence > e.state.Audited.Sequence {
		return
	}
	state, err := e.store.change(func(s *emergencyState) ([]control.EmergencyRecord, error) {
		s.Told = max(s.Told, sequence)
		return nil, nil
	})
	if err != nil {
		e.log.Error("not written that the controller knows of emergency access", logkeys.Error, err)
		return // it is told again
	}
	e.adoptState(state)
	e.report()
}

// EmergencyStatus is the state of break-glass on a running host.
type EmergencyStatus struct {
	Keys     []EmergencyKeyInfo       `json:"keys"`
	Openings []EmergencyOpeningStatus `json:"openings"`
	// Ready tells whether an emergency knock would open its port now.
	Ready bool `json:"ready"`
	// Knocks counts those with a hint of a key, by reason.
	Knocks map[string]uint64 `json:"knocks"`
	// Refused counts valid knocks at a host that was not alone.
	Refused uint64 `json:"refused"`
	// Unwritten counts valid knocks that could not be recorded; Failed, those that
	// the firewall could not be changed for.
	Unwritten uint64 `json:"unwritten"`
	Failed    uint64 `json:"failed"`
	// Untold counts the records that the controller has not acknowledged.
	Untold uint64 `json:"untold"`
}

// EmergencyOpeningStatus is one port that an emergency key opened.
type EmergencyOpeningStatus struct {
	ID      key.ID              `json:"id"`
	Key     key.ID              `json:"key"`
	Counter uint64              `json:"counter"`
	Service string              `json:"service"`
	Port    control.ServicePort `json:"port"`
	Source  netip.Addr          `json:"source"`
	Left    control.Duration    `json:"left"`
}

func (e *emergency) status() EmergencyStatus {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.now()
	s := EmergencyStatus{
		Keys: e.state.infos(), Openings: []EmergencyOpeningStatus{}, Ready: e.isAlone(),
		Knocks: make(map[string]uint64), Refused: e.refused, Unwritten: e.unwritten, Failed: e.failed,
		Untold: e.state.Audited.Sequence - min(e.state.Told, e.state.Audited.Sequence),
	}
	for r := range e.counts {
		if n := e.counts[r].Load(); n > 0 {
			s.Knocks[spa.Reason(r).String()] = n
		}
	}
	for _, o := range e.shown {
		if left := o.Until - now; left > 0 {
			s.Openings = append(s.Openings, EmergencyOpeningStatus{
				o.ID, o.Key, o.Counter, o.Service, o.Port, o.Source,
				control.Duration(left.Round(time.Millisecond)),
			})
		}
	}
	return s
}
