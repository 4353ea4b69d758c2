package lab

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// beat is how often a Watch sends one round of probes.
const beat = 20 * time.Millisecond

// afterglow is for how long after a phase began packets of the one before may
// still be on their way.
const afterglow = 100 * time.Millisecond

// Watch probes a machine from another one, without a pause, and counts what comes
// back, phase by phase: a moment at which the machine answers does not escape it.
type Watch struct {
	From  string
	ports []uint16
	pairs []probePair
	stop  chan struct{}
	group sync.WaitGroup

	mu     sync.Mutex // guards what follows
	phases []Phase
	probed time.Time // the last round
	err    error
}

// anything says of a phase that whatever comes is right.
const anything = "anything"

// Phase is what one stretch of a Watch brought.
type Phase struct {
	Name    string
	May     []string // kinds that may answer; anything: all
	Began   time.Time
	Took    time.Duration
	Probes  int
	Pause   time.Duration // the longest between two rounds of probes
	Answers int
	Kinds   map[string]int
	First   time.Time // of the first answer
	Last    time.Time // of the last answer
	Wrong   string    // when the first answer that may not be came, its kind, and how it began

	told bool // by Faults
}

// String reads "dark 3.2s: 5120 probes, at most 21ms apart, 0 answers".
func (p Phase) String() string {
	text := fmt.Sprintf("%s %s: %d probes, at most %s apart, %d answers", p.Name, p.Took.Round(10*time.Millisecond),
		p.Probes, p.Pause.Round(time.Millisecond), p.Answers)
	for _, kind := range slices.Sorted(maps.Keys(p.Kinds)) {
		text += fmt.Sprintf(" %s×%d", kind, p.Kinds[kind])
	}
	return text
}

// probePair is one target, seen from one source address.
type probePair struct {
	source, target netip.Addr
	tcp, udp, icmp int
}

// Watch begins to probe: a SYN and a datagram to each of the ports, and an echo
// request, at each of the targets, 50 times a second. pairs are source and target
// addresses in turn. Close ends it.
func (l *Lab) Watch(from string, ports []uint16, pairs ...netip.Addr) (*Watch, error) {
	w := &Watch{From: from, ports: ports, stop: make(chan struct{})}
	ear := -1
	err := l.in(from, func() (err error) {
		if ear, err = openEar(); err != nil {
			return err
		}
		for i := 0; i+1 < len(pairs); i += 2 {
			p := probePair{source: pairs[i], target: pairs[i+1], tcp: -1, udp: -1, icmp: -1}
			err = errors.Join(p.open(), err)
			w.pairs = append(w.pairs, p)
		}
		return err
	})
	if err != nil {
		w.closeSockets(ear)
		return nil, fmt.Errorf("open the watch's sockets on %s: %w", from, err)
	}
	w.Mark("begun", anything)
	var sockets sync.WaitGroup
	sockets.Go(w.probe)
	sockets.Go(func() { w.listen(ear) })
	w.group.Go(func() {
		sockets.Wait()
		w.closeSockets(ear)
	})
	return w, nil
}

func (p *probePair) open() (err error) {
	icmp := unix.IPPROTO_ICMP
	if p.target.Is6() {
		icmp = unix.IPPROTO_ICMPV6
	}
	if p.tcp, err = openRaw(p.target, unix.IPPROTO_TCP); err != nil {
		return err
	}
	if p.udp, err = openRaw(p.target, unix.IPPROTO_UDP); err != nil {
		return err
	}
	p.icmp, err = openRaw(p.target, icmp)
	return err
}

func (w *Watch) closeSockets(ear int) {
	fds := []int{ear}
	for _, p := range w.pairs {
		fds = append(fds, p.tcp, p.udp, p.icmp)
	}
	for _, fd := range fds {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// Mark ends the present phase, begins one of that name, in which these kinds of
// answers may come and no others, and returns the ended one. What is still on its way
// from before the call counts to the phase before.
func (w *Watch) Mark(name string, may ...string) Phase {
	var ended Phase
	if len(w.phases) > 0 {
		time.Sleep(afterglow)
	}
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := len(w.phases); n > 0 {
		w.phases[n-1].Took = now.Sub(w.phases[n-1].Began)
		ended = w.phases[n-1]
	}
	w.phases = append(w.phases, Phase{Name: name, May: may, Began: now, Kinds: make(map[string]int)})
	return ended
}

// Faults says of all phases so far which were not as their Mark said, of each once.
func (w *Watch) Faults() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	faults := []error{w.err}
	for i := range w.phases {
		p := &w.phases[i]
		if i == len(w.phases)-1 {
			p.Took = time.Since(p.Began)
		}
		if p.Wrong != "" && !p.told {
			p.told = true
			faults = append(faults, broken("%s got answers: %s; the first that may not be: %s", w.From, p, p.Wrong))
		}
		if p.Probes == 0 && p.Took > time.Second && !p.told {
			p.told = true
			faults = append(faults, broken("%s sent no probes: %s", w.From, p))
		}
	}
	return errors.Join(faults...)
}

// Now returns the present phase so far.
func (w *Watch) Now() Phase {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.phases[len(w.phases)-1]
	p.Took, p.Kinds = time.Since(p.Began), maps.Clone(p.Kinds)
	return p
}

// Close ends the probing and returns all phases, and what went wrong with the
// probing itself.
func (w *Watch) Close() ([]Phase, error) {
	select {
	case <-w.stop:
	default:
		close(w.stop)
	}
	w.group.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.phases), w.err
}

// Log returns all phases, a line each.
func (w *Watch) Log() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var lines []string
	for i, p := range w.phases {
		if i == len(w.phases)-1 {
			p.Took = time.Since(p.Began)
		}
		lines = append(lines, fmt.Sprintf("%s %s: %s", p.Began.Format("15:04:05.000"), w.From, p))
	}
	return strings.Join(lines, "\n")
}

func (w *Watch) probe() {
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for {
		select {
		case <-w.stop:
			return
		case <-tick.C:
		}
		sent, err := 0, error(nil)
		for i := range w.pairs {
			n, fault := w.pairs[i].round(w.ports)
			sent, err = sent+n, errors.Join(err, fault)
		}
		w.mu.Lock()
		p := &w.phases[len(w.phases)-1]
		p.Probes += sent
		now := time.Now()
		if !w.probed.IsZero() {
			p.Pause = max(p.Pause, now.Sub(w.probed))
		}
		w.probed = now
		if w.err == nil && err != nil {
			w.err = fmt.Errorf("probe from %s: %w", w.From, err)
		}
		w.mu.Unlock()
	}
}

// round sends one probe of each kind.
func (p *probePair) round(ports []uint16) (sent int, err error) {
	to := sockaddr(p.target)
	send := func(fd int, b []byte) {
		fault := unix.Sendto(fd, b, 0, to)
		// What an unprotected or unreachable machine makes of a probe is no fault of it.
		soft := errors.Is(fault, unix.ENOBUFS) || errors.Is(fault, unix.EAGAIN) ||
			errors.Is(fault, unix.ECONNREFUSED) || errors.Is(fault, unix.EHOSTUNREACH)
		if fault != nil && !soft {
			err = fault
		}
		sent++
	}
	send(p.icmp, echoRequest(p.source, p.target))
	for _, port := range ports {
		send(p.tcp, synSegment(p.source, p.target, port))
		send(p.udp, udpDatagram(p.source, p.target, port))
	}
	return sent, err
}

func (w *Watch) listen(ear int) {
	buf := make([]byte, 2048)
	for {
		select {
		case <-w.stop:
			return
		default:
		}
		n, from, err := unix.Recvfrom(ear, buf, 0)
		if err != nil {
			continue // nothing within the ear's time-out
		}
		// Frames for others pass here too when a switch floods them; they are no answers.
		if link, ok := from.(*unix.SockaddrLinklayer); ok && link.Pkttype != unix.PACKET_HOST {
			continue
		}
		kind := w.kind(buf[:n])
		if kind == "" {
			continue
		}
		now := time.Now()
		w.mu.Lock()
		p := &w.phases[len(w.phases)-1]
		if p.Answers == 0 {
			p.First = now
		}
		p.Answers++
		p.Kinds[kind]++
		p.Last = now
		if p.Wrong == "" && !slices.Contains(p.May, kind) && !slices.Contains(p.May, anything) {
			p.Wrong = fmt.Sprintf("%s %s %x", now.Format("15:04:05.000"), kind, buf[:min(n, 60)])
		}
		w.mu.Unlock()
	}
}

// kind names a packet of a probed machine's and the port that it came from, such as
// tcp/22, or udp6/53 over IPv6. It is empty when the packet is something else.
func (w *Watch) kind(packet []byte) string {
	kind := ""
	for _, p := range w.pairs {
		kind = cmp.Or(kind, answerKind(packet, p.target))
	}
	if port, ok := sourcePort(packet); ok && (kind == "tcp" || kind == "udp") {
		if packet[0]>>4 == 6 {
			kind += "6"
		}
		kind = fmt.Sprintf("%s/%d", kind, port)
	}
	return kind
}

// sourcePort is the first field of TCP's and of UDP's header, if the packet has one.
func sourcePort(packet []byte) (uint16, bool) {
	header := 40
	if packet[0]>>4 == 4 {
		header = int(packet[0]&0x0f) * 4
	}
	if len(packet) < header+2 {
		return 0, false
	}
	return binary.BigEndian.Uint16(packet[header:]), true
}
