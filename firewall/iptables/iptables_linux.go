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
}

// Firewall is the iptables backend. The kernel's state is the only one that
// counts, so a new one carries on with rules that are there.
type Firewall struct {
	name      name
	variant   Variant
	capacity  uint32
	programs  programs
	namespace namespace
	now       func() time.Duration

	mu      sync.Mutex // guards the rest, and holds one change together
	sets    *sets      // nil after Close
	jumps   [2]*goiptables.IPTables
	stamp   stamp         // of the rules when they were last found complete
	doors   map[door]bool // when stamp was taken
	long    []longTimer   // of the rules that this one installed
	rearmed time.Duration
	closed  bool
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
	f := &Firewall{name: name(cfg.Name), capacity: cfg.Capacity, now: bootTime}
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
		f.sets, err = openSets()
		return err
	})
	if err != nil {
		return errors.Join(err, f.namespace.file.Close())
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
	f.mu.Lock()
	defer f.mu.Unlock()
	err := f.changeRulesLocked(ctx, func() error { return f.installLocked(ctx, rules) })
	if err != nil {
		return fmt.Errorf("install iptables-%s rules %s: %w", f.variant, f.name, err)
	}
	return nil
}

// changeRulesLocked does something that no other process may do at the same time.
func (f *Firewall) changeRulesLocked(ctx context.Context, do func() error) (err error) {
	if err := f.usableLocked(ctx); err != nil {
		return err
	}
	unlock, err := f.lockLocked(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	return do()
}

func (f *Firewall) usableLocked(ctx context.Context) error {
	if f.closed {
		return firewall.ErrClosed
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// Apply implements [firewall.Firewall]. It opens first: a replaced pinhole is open
// beside its successor for a moment. After an error in the middle, which only a
// kernel out of memory or somebody else can cause, what it was to open is shut.
func (f *Firewall) Apply(ctx context.Context, change firewall.Change) error {
	if err := change.Validate(); err != nil {
		return fmt.Errorf("change pinholes: %w", err)
	}
	if len(change.Revoke)+len(change.Open) == 0 {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.applyLocked(ctx, change); err != nil {
		return fmt.Errorf("change pinholes: %w", err)
	}
	return nil
}

// List implements [firewall.Firewall].
func (f *Firewall) List(ctx context.Context) ([]firewall.Pinhole, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	pinholes, err := f.listLocked(ctx)
	if err != nil {
		return nil, fmt.Errorf("list pinholes: %w", err)
	}
	return pinholes, nil
}

// Dropped implements [firewall.Firewall]. Install begins the counts anew.
func (f *Firewall) Dropped(ctx context.Context) (firewall.Dropped, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	dropped, err := f.droppedLocked(ctx)
	if err != nil {
		return firewall.Dropped{}, fmt.Errorf("count dropped packets: %w", err)
	}
	return dropped, nil
}

// Remove implements [firewall.Firewall].
func (f *Firewall) Remove(ctx context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.changeRulesLocked(ctx, func() error { return f.removeLocked(ctx) }); err != nil {
		return fmt.Errorf("remove iptables-%s rules %s: %w", f.variant, f.name, err)
	}
	return nil
}

// Close implements [firewall.Firewall]. It may be called more than once.
func (f *Firewall) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil
	}
	f.closed = true
	f.sets.close()
	if err := f.namespace.file.Close(); err != nil {
		return fmt.Errorf("close network namespace: %w", err)
	}
	return nil
}

// suffixesLocked lists our sets by what follows our name.
func (f *Firewall) suffixesLocked() ([]string, error) { return f.sets.names(f.name) }

// doorsLocked lists the doors: ports that packets are led to the rules of doors for.
// What came to nothing before that is none.
func (f *Firewall) doorsLocked() (map[door]bool, error) {
	doors := make(map[door]bool)
	for _, p := range protocols() {
		elements, err := f.sets.elements(f.name.set(doorsSet(p)))
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
