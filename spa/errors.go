package spa

import "errors"

// Errors of sealing and of opening an answer. What a receiver thinks of a
// datagram is a [Reason] instead.
var (
	ErrAudience  = errors.New("an audience is 1 to 64 bytes long")
	ErrService   = errors.New("a knock for access names a service in 1 to 63 bytes, others none")
	ErrSession   = errors.New("a knock that ends a session names it, one for control names none")
	ErrClaimed   = errors.New("a claimed address is not the unspecified one")
	ErrTime      = errors.New("a time lies between the years 1970 and 2262")
	ErrDuration  = errors.New("a duration is 0 to 136 years, in whole seconds, and of access only")
	ErrKind      = errors.New("no such kind of knock")
	ErrReply     = errors.New("not an answer to this knock")
	ErrGrant     = errors.New("a grant has one or two addresses and all its secrets")
	ErrAnswered  = errors.New("a knock is answered once")
	ErrReplyForm = errors.New("a reply is either a grant or a denial")
	ErrCounter   = errors.New("an emergency key's counter is 1 to 100")
	ErrEmergency = errors.New("an emergency knock names its key, and its service in 1 to 63 bytes")
	ErrText      = errors.New("a denial has a code, and a text of at most 120 bytes of UTF-8")
)
