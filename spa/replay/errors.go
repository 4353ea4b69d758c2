package replay

import "errors"

// Errors of [Open]. The file is left as it is.
var (
	ErrVersion = errors.New("the journal is of another version, or no journal at all: " +
		"run the version that wrote it, or move the file away and accept that knocks of the " +
		"last minutes could be replayed")
	ErrCorrupt = errors.New("the journal is damaged: " +
		"move the file away once it is more than five minutes old")
)
