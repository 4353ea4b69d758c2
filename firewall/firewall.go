package firewall

import "context"

// Firewall is one host's packet filter. Every method is idempotent and safe for
// concurrent use. An error leaves the kernel as it was before the call; it is
// [ErrPermission] when the rights are missing and [ErrClosed] after Close.
type Firewall interface {
	// Install puts the default-drop table for rules in place, in one transaction;
	// a table that is not there yet may come in two, the first of which lets less
	// through. Only the table of this Firewall's name is touched. Pinholes of a
	// table that is already there stay open with the time they have left;
	// everything else in it is replaced.
	Install(ctx context.Context, rules Rules) error

	// Apply revokes and opens: there is no moment at which a replaced pinhole is
	// missing, nor, where the kernel has transactions, one at which both are open.
	// Opening a pinhole that is
	// open sets its remaining time to the new TTL; revoking one that is not open
	// is no error. A pinhole with TTL <= 0 is not opened, and revoked if it is
	// open. Apply returns [ErrNotInstalled] when the table is not there, also
	// when somebody else removed it, and [ErrTooMany] above [MaxChange] openings.
	Apply(ctx context.Context, change Change) error

	// List returns the pinholes that the kernel holds now, with the time they
	// have left, in no particular order, or [ErrNotInstalled].
	List(ctx context.Context) ([]Pinhole, error)

	// Dropped returns what the table has dropped since it was first installed, or
	// [ErrNotInstalled]. Installing again may begin the counts anew.
	Dropped(ctx context.Context) (Dropped, error)

	// Remove deletes the table and with it all pinholes; what was there before
	// Install works again.
	Remove(ctx context.Context) error

	// Close releases the connection to the kernel and leaves the table in place,
	// so that the rules outlive the daemon.
	Close() error
}

// Watcher is what a Firewall also is that hears of what others do to it.
type Watcher interface {
	// Watch calls changed soon after somebody else took away or altered what Install
	// made, as `nft flush ruleset` does, until ctx ends, which is no error: some
	// milliseconds after it, or, where the kernel does not tell, at the next of
	// regular looks. It may be called for nothing. Of pinholes it hears nothing.
	// changed runs on the goroutine of Watch and must not block.
	Watch(ctx context.Context, changed func()) error
}

// Dropped counts packets by why they were dropped.
type Dropped struct {
	// Input came to the host: no pinhole, keep rule, or flow of its own.
	Input uint64
	// Door came to, or left, a port that has had pinholes, outside of them.
	Door uint64
	// Forward would have been sent on.
	Forward uint64
	// Output would have left the host, and belonged to no flow of its own.
	Output uint64
}
