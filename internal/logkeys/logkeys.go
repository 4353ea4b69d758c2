// Package logkeys names the keys of Postern's log lines, so that one thing has
// one name in every daemon. No key is for a secret: join tokens, knock secrets
// and private keys are never logged. control.Session and identity files hold
// such secrets; log their ID instead.
package logkeys

// The keys, with the type of their value.
const (
	Error   = "error"   // error: what went wrong
	State   = "state"   // of the protection
	Reason  = "reason"  // string: why something was refused or ended
	Code    = "code"    // string: the code of a denial
	Version = "version" // string: version of a program
	File    = "file"    // string: path of a file

	Settings = "settings" // []string: keys of a configuration

	Knock    = "knock"    // netip.AddrPort: the knock port
	Control  = "control"  // netip.AddrPort: the control port
	Address  = "address"  // netip.AddrPort: where we listen or dial
	Source   = "source"   // netip.AddrPort or netip.Addr: where a packet came from
	Target   = "target"   // string: what a host dials for a service
	Port     = "port"     // int: a UDP or TCP port
	Path     = "path"     // string: path of a request
	Protocol = "protocol" // string: tcp or udp

	Name     = "name"     // string: name of a device, host or service
	Identity = "identity" // key.ID: who knocked or connected
	Role     = "role"     // control.Role
	User     = "user"     // string: person or service account
	Device   = "device"   // key.ID of a client machine
	Host     = "host"     // key.ID of a protected host
	Service  = "service"  // string: name of a service
	Session  = "session"  // key.ID of a session
	Token    = "token"    // key.ID: the public number of a join token, never its text
	Key      = "key"      // key.ID: the public number of an emergency key, never its text
	Kind     = "kind"     // string: what a knock asks for

	Count    = "count"    // int: how many
	Bytes    = "bytes"    // int: how much
	Duration = "duration" // time.Duration: how long, or how long still
	Deadline = "deadline" // time.Time
	Dropped  = "dropped"  // int: packets not looked at
	Backend  = "backend"  // string: name of a firewall backend, and why it was chosen
	Chain    = "chain"    // string: a chain of packet filter rules
	Number   = "number"   // int: number of an order to a host
)
