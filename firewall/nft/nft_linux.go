package nft

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/firewall/notify"
)

// DefaultTable is the name of the table when Config has none.
const DefaultTable = "postern"

// patience bounds the wait for the kernel's answer. It answers before the
// sending call returns; only a kernel that refuses a whole batch says less than
// the library waits for.
const patience = 5 * time.Second

// Socket buffers: they must hold a whole transaction and its answers. They are
// limits, not allocations.
const (
	sendBuffer    = 16 << 20
	receiveBuffer = 4 << 20
)

// Config chooses the table.
type Config struct {
	// Table is the name of the table of family inet; empty means DefaultTable.
	Table string
	// NetNS is an open file descriptor of the network namespace to work in, used
	// by New only; 0 means the one of the calling thread. Entering another one
	// needs CAP_SYS_ADMIN.
	NetNS int
	// Boot names the running boot, in letters and digits. When it is not empty, Install
	// closes pinholes that were made in another one: a saved rule set brings them back.
	Boot string
}

// Firewall is the nftables backend. It keeps no state beside the kernel's, so a
// new one on a table that is there carries on with it.
type Firewall struct {
	table *nftables.Table
	news  *notify.Listener // of Watch
	boot  string

	mu     sync.Mutex     // guards the rest, and holds one transaction together
	conn   *nftables.Conn // nil after Close
	socket *netlink.Conn  // the connection inside conn
	wire   wire           // of the last change, whose memory the next one takes
}

var _ firewall.Firewall = (*Firewall)(nil)

// New connects to the kernel and changes nothing.
func New(cfg Config) (*Firewall, error) {
	if cfg.Table == "" {
		cfg.Table = DefaultTable
	}
	f := &Firewall{table: &nftables.Table{Name: cfg.Table, Family: nftables.TableFamilyINet}, boot: cfg.Boot}
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithNetNSFd(cfg.NetNS),
		nftables.WithSockOptions(f.setUp))
	if err != nil {
		if f.socket != nil {
			f.socket.Close()
		}
		return nil, fmt.Errorf("connect to nftables: %w", explain(err))
	}
	f.conn = conn
	if f.news, err = notify.Listen(cfg.NetNS); err != nil {
		return nil, errors.Join(err, conn.CloseLasting())
	}
	return f, nil
}

func (f *Firewall) setUp(socket *netlink.Conn) error {
	f.socket = socket
	if err := socket.SetWriteBuffer(sendBuffer); err != nil {
		return fmt.Errorf("enlarge send buffer: %w", err)
	}
	if err := socket.SetReadBuffer(receiveBuffer); err != nil {
		return fmt.Errorf("enlarge receive buffer: %w", err)
	}
	// Answers need not repeat the request.
	return socket.SetOption(netlink.CapAcknowledge, true)
}

// Install implements [firewall.Firewall].
func (f *Firewall) Install(ctx context.Context, rules firewall.Rules) error {
	if err := rules.Validate(); err != nil {
		return fmt.Errorf("install rules: %w", err)
	}
	if err := f.install(ctx, rules); err != nil {
		return fmt.Errorf("install table inet %s: %w", f.table.Name, err)
	}
	return nil
}

// install puts a table that is not there yet up in two steps, the first one
// without any rule that needs connection tracking. The kernel starts tracking
// as soon as it reads such a rule, before the transaction counts; were all let
// through until then, a packet that the host sends on a stranger's connection
// would make it one of the host's own.
func (f *Firewall) install(ctx context.Context, rules firewall.Rules) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.usableLocked(ctx); err != nil {
		return err
	}
	err := f.installedLocked()
	fresh := errors.Is(err, firewall.ErrNotInstalled)
	if err != nil && !fresh {
		return explainInstall(err, false)
	}
	if fresh {
		err := f.sendLocked(func() error { return f.queueTableLocked(rules, false) })
		if err != nil {
			return explainInstall(err, false)
		}
	}
	err = f.sendLocked(func() error { return f.queueTableLocked(rules, true) })
	if err != nil && fresh {
		err = errors.Join(err, f.sendLocked(f.queueRemovalLocked))
	}
	return explainInstall(err, !fresh)
}

// Apply implements [firewall.Firewall].
func (f *Firewall) Apply(ctx context.Context, change firewall.Change) error {
	if err := change.Validate(); err != nil {
		return fmt.Errorf("change pinholes: %w", err)
	}
	if len(change.Revoke)+len(change.Open) == 0 {
		return nil
	}
	if err := f.apply(ctx, makeBatch(change)); err != nil {
		return fmt.Errorf("change pinholes: %w", err)
	}
	return nil
}

func (f *Firewall) apply(ctx context.Context, b batch) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.usableLocked(ctx); err != nil {
		return err
	}
	b.write(&f.wire, f.table.Name)
	err := f.repeatLocked(f.exchangeLocked)
	if cap(f.wire.data) > largestKept {
		f.wire.data = nil
	}
	return err
}

// List implements [firewall.Firewall].
func (f *Firewall) List(ctx context.Context) ([]firewall.Pinhole, error) {
	pinholes, err := f.list(ctx)
	if err != nil {
		return nil, fmt.Errorf("list pinholes: %w", err)
	}
	return pinholes, nil
}

// Dropped implements [firewall.Firewall].
func (f *Firewall) Dropped(ctx context.Context) (firewall.Dropped, error) {
	dropped, err := f.dropped(ctx)
	if err != nil {
		return firewall.Dropped{}, fmt.Errorf("read counters: %w", err)
	}
	return dropped, nil
}

// Remove implements [firewall.Firewall].
func (f *Firewall) Remove(ctx context.Context) error {
	if err := f.transaction(ctx, f.queueRemovalLocked); err != nil {
		return fmt.Errorf("remove table inet %s: %w", f.table.Name, err)
	}
	return nil
}

// queueRemovalLocked adds first: deleting what is not there is an error, adding
// what is there is none.
func (f *Firewall) queueRemovalLocked() error {
	f.conn.AddTable(f.table)
	f.conn.DelTable(f.table)
	return nil
}

// Close implements [firewall.Firewall]. It may be called more than once.
func (f *Firewall) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.conn == nil {
		return nil
	}
	conn := f.conn
	f.conn = nil
	if err := errors.Join(conn.CloseLasting(), f.news.Close()); err != nil {
		return fmt.Errorf("close nftables connection: %w", err)
	}
	return nil
}
