package iptables

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	goiptables "github.com/coreos/go-iptables/iptables"
	"golang.org/x/sys/unix"

	"github.com/postern-sdp/postern/firewall"
)

// DefaultName is what all names begin with when Config has no name.
const DefaultName = "postern"

// DefaultCapacity is how many pinholes one set of a door takes.
const DefaultCapacity = 1 << 20

// Config chooses the rules.
type Config struct {
	// Name is what the names of all sets begin with and, in capitals, those of all
	// chains; empty means DefaultName. Instances of different names do not meet.
	Name string
	// Variant is Auto when empty.
	Variant Variant
	// NetNS is an open file descriptor of the network namespace to work in, used by
	// New only; 0 means the one of the calling thread. Another one than that of the
	// threads that call needs CAP_SYS_ADMIN.
	NetNS int
	// Capacity is how many pinholes of a door, a family and a kind (exact or wide)
	// there may be at most; 0 means DefaultCapacity.
	Capacity uint32
	// Boot names the running boot, in up to 8 letters and digits. When it is not empty,
	// Install closes pinholes that were made in another one: saved sets bring them back.
	Boot string
}

// Firewall is the iptables backend. The kernel's state is the only one that
// counts, so a new one carries on with rules that are there.
type Firewall struct {
	name      name
	variant   Variant
	capacity  uint32
	boot      string
	programs  programs
	namespace namespace
	now       func() time.Duration
	sets      *sets // for changes
	lists     *sets // for listings, which changes do not wait for
	jumps     [2]*goiptables.IPTables
	census    census
	memory    memory

	mu       sync.Mutex   // holds one change of the chains together: programs run
	members  sync.Mutex   // holds one change of pinholes together: no program runs
	checking sync.Mutex   // one at a time reads all rules
	using    sync.RWMutex // guards closed; read while a call is under way
	closed   bool
}

var _ firewall.Firewall = (*Firewall)(nil)

// New looks for the programs, connects to the kernel and changes nothing.
func New(cfg Config) (*Firewall, error) {
	if cfg.Name == "" {
		cfg.Name = DefaultName
	}
	if cfg.Capacity == 0 {
		cfg.Capacity = DefaultCapacity
	}
	f := &Firewall{name: name(cfg.Name), capacity: cfg.Capacity, boot: cfg.Boot, now: bootTime}
	if !f.name.valid() {
		return nil, fmt.Errorf("%w: %q", ErrName, cfg.Name)
	}
	var err error
	if f.variant, err = cfg.Variant.resolve(); err != nil {
		return nil, err
	}
	if f.programs, err = findPrograms(f.variant); err != nil {
		return nil, err
	}
	f.census = newCensus(f.name)
	if err := f.connect(cfg.NetNS); err != nil {
		return nil, fmt.Errorf("connect to iptables-%s: %w", f.variant, err)
	}
	return f, nil
}

func (f *Firewall) connect(fd int) (err error) {
	if f.namespace, err = openNamespace(fd); err != nil {
		return err
	}
	err = f.namespace.do(func() (err error) {
		if f.sets, err = openSets(); err != nil {
			return err
		}
		f.lists, err = openSets()
		return err
	})
	if err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.sets.supported(); err != nil {
		return errors.Join(err, f.Close())
	}
	for _, v6 := range families() {
		protocol := goiptables.ProtocolIPv4
		if v6 {
			protocol = goiptables.ProtocolIPv6
		}
		f.jumps[of(v6)], err = goiptables.New(goiptables.IPFamily(protocol),
			goiptables.Path(f.programs.tables[of(v6)]), goiptables.Timeout(10))
		if err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return nil
}

func openNamespace(fd int) (namespace, error) {
	if fd == 0 {
		return currentNamespace()
	}
	own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return namespace{}, fmt.Errorf("network namespace: %w", err)
	}
	return namespace{os.NewFile(uintptr(own), "netns")}, nil
}

// Variant returns NFT or Legacy.
func (f *Firewall) Variant() Variant { return f.variant }

// Install implements [firewall.Firewall]. Each table of each family is replaced in
// one transaction.
func (f *Firewall) Install(ctx context.Context, rules firewall.Rules) error {
	if err := rules.Validate(); err != nil {
		return fmt.Errorf("install rules: %w", err)
	}
	err := f.use(ctx, func() error {
		return f.changeRules(ctx, func() error { return f.installLocked(ctx, rules) })
	})
	if err != nil {
		return fmt.Errorf("install iptables-%s rules %s: %w", f.variant, f.name, err)
	}
	return nil
}

// changeRules does something that nobody else may do at the same time, no other process
// either.
func (f *Firewall) changeRules(ctx context.Context, do func() error) (err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	unlock, err := f.lockLocked(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	return do()
}

// use does something that Close waits for.
func (f *Firewall) use(ctx context.Context, do func() error) error {
	f.using.RLock()
	defer f.using.RUnlock()
	if f.closed {
		return firewall.ErrClosed
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return do()
}

// Apply implements [firewall.Firewall]. It opens first: a replaced pinhole is open
// beside its successor for a moment. After an error in the middle, which only a
// kernel out of memory or somebody else can cause, what it was to open is shut. What
// it was to revoke may be revoked in spite of an error.
func (f *Firewall) Apply(ctx context.Context, change firewall.Change) error {
	if err := change.Validate(); err != nil {
		return fmt.Errorf("change pinholes: %w", err)
	}
	if len(change.Revoke)+len(change.Open) == 0 {
		return nil
	}
	if err := f.use(ctx, func() error { return f.apply(ctx, f.makeBatch(change)) }); err != nil {
		return fmt.Errorf("change pinholes: %w", err)
	}
	return nil
}

// List implements [firewall.Firewall].
func (f *Firewall) List(ctx context.Context) (pinholes []firewall.Pinhole, err error) {
	err = f.use(ctx, func() (err error) {
		pinholes, err = f.list(ctx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list pinholes: %w", err)
	}
	return pinholes, nil
}

// Dropped implements [firewall.Firewall]. Install begins the counts anew.
func (f *Firewall) Dropped(ctx context.Context) (dropped firewall.Dropped, err error) {
	err = f.use(ctx, func() (err error) {
		dropped, err = f.dropped(ctx)
		return err
	})
	if err != nil {
		return firewall.Dropped{}, fmt.Errorf("count dropped packets: %w", err)
	}
	return dropped, nil
}

// Remove implements [firewall.Firewall].
func (f *Firewall) Remove(ctx context.Context) error {
	err := f.use(ctx, func() error {
		return f.changeRules(ctx, func() error { return f.removeLocked(ctx) })
	})
	if err != nil {
		return fmt.Errorf("remove iptables-%s rules %s: %w", f.variant, f.name, err)
	}
	return nil
}

// Close implements [firewall.Firewall]. It may be called more than once.
func (f *Firewall) Close() error {
	f.using.Lock()
	defer f.using.Unlock()
	if f.closed {
		return nil
	}
	f.closed = true
	for _, s := range []*sets{f.sets, f.lists} {
		if s != nil {
			s.close()
		}
	}
	if err := f.namespace.file.Close(); err != nil {
		return fmt.Errorf("close network namespace: %w", err)
	}
	return nil
}

// suffixes lists our sets by what follows our name.
func (f *Firewall) suffixes() ([]string, error) { return f.lists.names(f.name) }

// doors lists the doors: ports that packets are led to the rules of doors for.
// What came to nothing before that is none.
func (f *Firewall) doors() (map[door]bool, error) {
	doors := make(map[door]bool)
	for _, p := range protocols() {
		elements, err := f.lists.elements(f.name.set(doorsSet(p)))
		if err != nil {
			return nil, err
		}
		for _, e := range elements {
			if e.port != 0 {
				doors[door{p, e.port}] = true
			}
		}
	}
	return doors, nil
}
