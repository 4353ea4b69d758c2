package daemon

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"syscall"
)

// Logger returns a logger that writes lines of text to w. When w is the stream
// that the journal reads, they have no time of their own and the journal's
// priority in place of their level: see sd-daemon(3).
func Logger(w io.Writer, level slog.Leveler) *slog.Logger {
	if f, ok := w.(*os.File); ok && isJournal(f, os.Getenv("JOURNAL_STREAM")) {
		return slog.New(journalHandler(w, level))
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}

// isJournal reports whether f is the stream of that name, DEVICE:INODE. A
// daemon's child whose output goes elsewhere has the variable, but not the stream.
func isJournal(f *os.File, stream string) bool {
	info, err := f.Stat()
	if err != nil {
		return false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && stream == fmt.Sprintf("%d:%d", stat.Dev, stat.Ino)
}

// The journal's priorities: syslog(3).
const (
	priorityError = iota
	priorityWarning
	priorityInfo
	priorityDebug
	priorities
)

// journal is one handler for each priority: they differ in the prefix only.
type journal [priorities]slog.Handler

func journalHandler(w io.Writer, level slog.Leveler) slog.Handler {
	options := &slog.HandlerOptions{
		Level: level,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
				return slog.Attr{}
			}
			return a
		},
	}
	var j journal
	for i, prefix := range []string{"<3>", "<4>", "<6>", "<7>"} {
		j[i] = slog.NewTextHandler(prefixed{w, prefix}, options)
	}
	return j
}

// Enabled implements [slog.Handler].
func (j journal) Enabled(ctx context.Context, l slog.Level) bool { return j[0].Enabled(ctx, l) }

// Handle implements [slog.Handler].
func (j journal) Handle(ctx context.Context, r slog.Record) error {
	return j[priority(r.Level)].Handle(ctx, r)
}

// WithAttrs implements [slog.Handler].
func (j journal) WithAttrs(attrs []slog.Attr) slog.Handler {
	for i := range j {
		j[i] = j[i].WithAttrs(attrs)
	}
	return j
}

// WithGroup implements [slog.Handler].
func (j journal) WithGroup(name string) slog.Handler {
	for i := range j {
		j[i] = j[i].WithGroup(name)
	}
	return j
}

func priority(l slog.Level) int {
	switch {
	case l >= slog.LevelError:
		return priorityError
	case l >= slog.LevelWarn:
		return priorityWarning
	case l >= slog.LevelInfo:
		return priorityInfo
	}
	return priorityDebug
}

// prefixed puts a prefix before what is written, in one write: a record is a line.
type prefixed struct {
	w      io.Writer
	prefix string
}

// Write implements [io.Writer].
func (p prefixed) Write(b []byte) (int, error) {
	if _, err := p.w.Write(append([]byte(p.prefix), b...)); err != nil {
		return 0, err
	}
	return len(b), nil
}
