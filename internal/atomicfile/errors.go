package atomicfile

import "errors"

// Errors of ReadPrivate.
var (
	ErrNotPrivate = errors.New("the file is not private: it must be yours, with mode 0600 or less")
	ErrNotRegular = errors.New("not a regular file")
	ErrTooLarge   = errors.New("the file is larger than 64 MiB")
)
