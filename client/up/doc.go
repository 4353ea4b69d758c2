// Package up keeps a person's services reachable on this machine, each at an address
// and port of its own. It knocks for one when it is first used.
package up
