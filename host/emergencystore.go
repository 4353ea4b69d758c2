package host

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-sdp/postern/internal/atomicfile"
	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/spa"
	"github.com/postern-sdp/postern/spa/key"
)

// Files of break-glass in the state folder.
const (
	emergencyName      = "emergency.json"
	emergencyLockName  = "emergency.lock"
	emergencyAuditName = "emergency-audit.jsonl"
)

const (
	emergencyStateVersion = 1
	// maxEmergencyKeys bounds the keys of one host, and with them the hints it holds.
	maxEmergencyKeys = 32
	// lockLimit bounds how long one program waits for another that changes the keys.
	lockLimit = 2 * time.Second
	lockPause = 10 * time.Millisecond
)

// emergencyState is what a host keeps of its emergency keys: nothing that makes a
// knock, but enough to recognise one. The agent and the commands of the
// administrator share the file under a lock.
type emergencyState struct {
	Version  int                `json:"version"`
	Keys     []emergencyKey     `json:"keys"`
	Openings []emergencyOpening `json:"openings"`
	// Audited is the newest record of the audit when this was written.
	Audited chainHead `json:"audited"`
	// Told is the newest record that the controller has acknowledged.
	Told uint64 `json:"told"`
}

// emergencyKey is one key as its host knows it.
type emergencyKey struct {
	ID       key.ID              `json:"id"`
	Service  string              `json:"service"`
	Port     control.ServicePort `json:"port"`
	For      control.Duration    `json:"for"`
	Uses     uint64              `json:"uses"`
	Used     uint64              `json:"used"` // highest counter seen
	Created  time.Time           `json:"created"`
	Verifier emergencyVerifier   `json:"verifier"`
}

// emergencyVerifier marshals for the host's private file, and prints nothing.
type emergencyVerifier struct{ key.EmergencyVerifier }

// Format implements [fmt.Formatter] and hides the secret from every verb.
func (emergencyVerifier) Format(s fmt.State, _ rune) { fmt.Fprint(s, "[secret]") }

// MarshalText implements [encoding.TextMarshaler].
func (v emergencyVerifier) MarshalText() ([]byte, error) { return []byte(v.Reveal()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (v *emergencyVerifier) UnmarshalText(text []byte) error {
	parsed, err := key.ParseEmergencyVerifier(string(text))
	if err != nil {
		return err
	}
	v.EmergencyVerifier = parsed
	return nil
}

// emergencyOpening is one use of a key: a port that is open to one address. Until
// is on the clock since boot.
type emergencyOpening struct {
	ID       key.ID              `json:"id"`
	Key      key.ID              `json:"key"`
	Counter  uint64              `json:"counter"`
	Service  string              `json:"service"`
	Port     control.ServicePort `json:"port"`
	Source   netip.Addr          `json:"source"`
	Boot     string              `json:"boot"`
	Until    time.Duration       `json:"until"`
	Deadline time.Time           `json:"deadline"` // the same by the wall clock, for people
	// Closed by command: kept until its deadline, so that an agent that was not
	// running closes it when it starts.
	Closed bool `json:"closed,omitempty"`
}

func (s *emergencyState) key(id key.ID) *emergencyKey {
	for i := range s.Keys {
		if s.Keys[i].ID == id {
			return &s.Keys[i]
		}
	}
	return nil
}

// prune forgets openings of earlier boots and those whose deadline has come.
func (s *emergencyState) prune(boot string, now time.Duration) {
	s.Openings = slices.DeleteFunc(s.Openings, func(o emergencyOpening) bool {
		return o.Boot != boot || o.Until <= now
	})
}

// emergencyStore is the state and the audit on the disk. Its methods may be called
// by several programs at once.
type emergencyStore struct{ folder string }

func (s emergencyStore) path(name string) string { return filepath.Join(s.folder, name) }

// load reads the state, which is empty when there is none.
func (s emergencyStore) load() (emergencyState, error) {
	path := s.path(emergencyName)
	b, err := atomicfile.ReadPrivate(path)
	if errors.Is(err, fs.ErrNotExist) {
		return emergencyState{Version: emergencyStateVersion}, nil
	}
	if err != nil {
		return emergencyState{}, fmt.Errorf("read emergency keys: %w", err)
	}
	var state emergencyState
	// The error could quote the file, and so could that of a verifier.
	if err := json.Unmarshal(b, &state); err != nil || state.Version < 1 {
		return emergencyState{}, fmt.Errorf("read emergency keys %s: %w", path, ErrEmergencyState)
	}
	if state.Version > emergencyStateVersion {
		return emergencyState{}, fmt.Errorf("read emergency keys %s: %w", path, ErrEmergencyVersion)
	}
	if !state.sound() {
		return emergencyState{}, fmt.Errorf("read emergency keys %s: %w", path, ErrEmergencyState)
	}
	return state, nil
}

// sound reports whether a program of ours can have written s.
func (s *emergencyState) sound() bool {
	for _, k := range s.Keys {
		if k.ID.IsZero() || k.Verifier.IsZero() || k.Service == "" || k.Port.Port == 0 || k.For <= 0 ||
			time.Duration(k.For) > control.MaxEmergencyFor || k.Uses > spa.MaxEmergencyCounter {
			return false
		}
	}
	for _, o := range s.Openings {
		if o.ID.IsZero() || o.claim().opening.Validate() != nil {
			return false
		}
	}
	return len(s.Keys) <= maxEmergencyKeys
}

// change alters the state by f, under the lock. What f returns is in the audit, and
// the state after f on the disk, when change returns nil; otherwise the state is as
// it was. A record may then be in the audit of what was not done: the other order
// would hide what was. PROTOCOL 9.6
func (s emergencyStore) change(
	f func(*emergencyState) ([]control.EmergencyRecord, error)) (emergencyState, error) {
	unlock, err := s.lock()
	if err != nil {
		return emergencyState{}, err
	}
	defer unlock()
	state, err := s.load()
	if err != nil {
		return emergencyState{}, err
	}
	records, err := f(&state)
	if err != nil {
		return emergencyState{}, err
	}
	if len(records) > 0 {
		if state.Audited, err = s.append(state.Audited, records); err != nil {
			return emergencyState{}, err
		}
	}
	b, err := json.Marshal(state)
	if err != nil {
		return emergencyState{}, fmt.Errorf("write emergency keys: %w", err)
	}
	if err := atomicfile.Write(s.path(emergencyName), b, 0o600); err != nil {
		return emergencyState{}, fmt.Errorf("write emergency keys: %w", err)
	}
	return state, nil
}

// lock keeps other programs from changing the state until unlock is called.
func (s emergencyStore) lock() (unlock func(), err error) {
	f, err := s.openOwn(emergencyLockName)
	if err != nil {
		return nil, fmt.Errorf("lock emergency keys: %w", err)
	}
	for end := time.Now().Add(lockLimit); ; time.Sleep(lockPause) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil // closing unlocks
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) || time.Now().After(end) {
			return nil, errors.Join(fmt.Errorf("lock emergency keys: %w", err), f.Close())
		}
	}
}

// openOwn opens a file of the state folder for writing, makes it if it is missing, and
// leaves it to the service whose folder it is. A link is refused: root runs the
// administrator's commands, and the service could have put any file of root's there.
func (s emergencyStore) openOwn(name string) (*os.File, error) {
	const flags = os.O_RDWR | os.O_CREATE | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC
	f, err := os.OpenFile(s.path(name), flags, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil {
		stat, ok := info.Sys().(*syscall.Stat_t)
		if !ok || !info.Mode().IsRegular() || stat.Nlink != 1 {
			err = fmt.Errorf("%s: %w", f.Name(), atomicfile.ErrNotRegular)
		}
	}
	if err == nil {
		err = atomicfile.Give(f)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
