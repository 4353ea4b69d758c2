// Package fwtest is the conformance suite of [firewall.Firewall]: what a backend
// promises, tried out on the running kernel with real packets. Each test is named
// after its promise and has a small network of its own:
//
//	client    192.0.2.2 2001:db8::2 ─┐
//	                                 ├─ switch ─ host 192.0.2.1 2001:db8::1
//	neighbour 192.0.2.3 2001:db8::3 ─┘
//
// The firewall is the host's. It needs root (or a user namespace) and, for the
// tests that dump foreign rules, the program nft.
package fwtest
