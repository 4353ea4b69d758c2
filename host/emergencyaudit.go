package host

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/postern-sdp/postern/internal/atomicfile"
	"github.com/postern-sdp/postern/internal/control"
)

// chainHead is the newest line of an audit.
type chainHead struct {
	Sequence uint64 `json:"sequence"`
	Hash     string `json:"hash"` // hexadecimal; empty before the first line
}

// EmergencyLine is one line of the emergency audit. Hash is the SHA-256 of the
// previous line's (none for the first) and the record's bytes as they stand, so that
// no line is changed, added or taken out without changing all that follow.
type EmergencyLine struct {
	Record   json.RawMessage `json:"record"`
	Previous string          `json:"previous"`
	Hash     string          `json:"hash"`
}

func chained(previous string, record []byte) string {
	before, err := hex.DecodeString(previous)
	if err != nil {
		before = []byte(previous) // then no line of ours has it
	}
	sum := sha256.Sum256(append(before, record...))
	return hex.EncodeToString(sum[:])
}

// append adds records behind what the audit holds, synced to the disk, and returns
// its new head. known is the newest head the state knows: should somebody have taken
// the audit away, the chain goes on behind it, and verifying tells.
func (s emergencyStore) append(known chainHead,
	records []control.EmergencyRecord) (chainHead, error) {
	head, size, err := s.head(known)
	if err != nil {
		return chainHead{}, err
	}
	var lines []byte
	for _, r := range records {
		r.Sequence = head.Sequence + 1
		b, err := json.Marshal(r)
		if err != nil {
			return chainHead{}, fmt.Errorf("write emergency audit: %w", err)
		}
		line := EmergencyLine{Record: b, Previous: head.Hash, Hash: chained(head.Hash, b)}
		head = chainHead{r.Sequence, line.Hash}
		if b, err = json.Marshal(line); err != nil {
			return chainHead{}, fmt.Errorf("write emergency audit: %w", err)
		}
		lines = append(append(lines, b...), '\n')
	}
	if err := s.write(size, lines); err != nil {
		return chainHead{}, fmt.Errorf("write emergency audit: %w", err)
	}
	return head, nil
}

// write puts lines at the end of the audit's size good bytes. What a crash left half
// written behind them was never acted upon, and goes.
func (s emergencyStore) write(size int64, lines []byte) error {
	f, err := s.openOwn(emergencyAuditName)
	if err != nil {
		return err
	}
	defer f.Close()
	err = f.Truncate(size)
	if err == nil {
		_, err = f.WriteAt(lines, size)
	}
	if err == nil {
		err = f.Sync()
	}
	if err != nil {
		return errors.Join(err, f.Truncate(size))
	}
	if size > 0 {
		return nil
	}
	folder, err := os.Open(s.folder) // the file is new, and so is its name
	if err != nil {
		return err
	}
	defer folder.Close()
	return folder.Sync()
}

// head returns the newest line's head and the size of all whole lines.
func (s emergencyStore) head(known chainHead) (chainHead, int64, error) {
	b, err := s.readAudit()
	if err != nil {
		return chainHead{}, 0, err
	}
	b = b[:bytes.LastIndexByte(b, '\n')+1]
	if len(b) == 0 {
		return known, 0, nil
	}
	last := b[bytes.LastIndexByte(b[:len(b)-1], '\n')+1:]
	record, line, err := parseLine(last)
	if err != nil {
		return chainHead{}, 0, fmt.Errorf("read emergency audit: its last line: %w", err)
	}
	if record.Sequence < known.Sequence { // lines are missing
		return known, int64(len(b)), nil
	}
	return chainHead{record.Sequence, line.Hash}, int64(len(b)), nil
}

// readAudit returns the whole file, nothing when there is none.
func (s emergencyStore) readAudit() ([]byte, error) {
	b, err := atomicfile.ReadPrivate(s.path(emergencyAuditName))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read emergency audit: %w", err)
	}
	return b, nil
}

// parseLine reads one line and checks its own hash.
func parseLine(text []byte) (control.EmergencyRecord, EmergencyLine, error) {
	var line EmergencyLine
	var record control.EmergencyRecord
	if json.Unmarshal(text, &line) != nil || json.Unmarshal(line.Record, &record) != nil ||
		!record.Event.Valid() {
		return record, line, ErrAuditLine
	}
	if chained(line.Previous, line.Record) != line.Hash {
		return record, line, ErrAuditHash
	}
	return record, line, nil
}

// reports returns up to limit records behind sequence told, for the controller.
func (s emergencyStore) reports(told uint64, limit int) ([]control.EmergencyReport, error) {
	b, err := s.readAudit()
	if err != nil {
		return nil, err
	}
	var reports []control.EmergencyReport
	for text := range bytes.Lines(b) {
		record, line, err := parseLine(text)
		if err == nil && record.Sequence > told && len(reports) < limit {
			reports = append(reports, control.EmergencyReport{Record: record, Hash: line.Hash})
		}
	}
	return reports, nil
}

// verify checks the whole chain, and that it reaches what the state knows of.
func (s emergencyStore) verify() error {
	b, err := s.readAudit()
	if err != nil {
		return err
	}
	state, err := s.load()
	if err != nil {
		return err
	}
	var head chainHead
	reached := state.Audited.Sequence == 0
	number := 0
	for text := range bytes.Lines(b) {
		number++
		record, line, err := parseLine(text)
		switch {
		case err != nil:
		case !bytes.HasSuffix(text, []byte{'\n'}):
			err = ErrAuditLine
		case record.Sequence != head.Sequence+1 || line.Previous != head.Hash:
			err = ErrAuditGap
		}
		if err != nil {
			return fmt.Errorf("emergency audit, line %d: %w", number, err)
		}
		head = chainHead{record.Sequence, line.Hash}
		reached = reached || head == state.Audited
	}
	if !reached {
		return fmt.Errorf("emergency audit, after line %d: %w", number, ErrAuditShort)
	}
	return nil
}

// WriteEmergencyLog copies the emergency audit of a state folder to w as it stands.
func WriteEmergencyLog(folder string, w io.Writer) error {
	b, err := emergencyStore{folder}.readAudit()
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

// VerifyEmergencyLog checks the chain of the emergency audit. It returns
// [ErrAuditLine], [ErrAuditHash], [ErrAuditGap] or [ErrAuditShort], with the line. Who
// can write the whole folder can write a new chain: the controller has the other copy.
func VerifyEmergencyLog(folder string) error { return emergencyStore{folder}.verify() }
