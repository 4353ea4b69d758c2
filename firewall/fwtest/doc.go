// Package fwtest is the conformance suite of [firewall.Firewall]: what a backend
// promises, tried out on the running kernel with real packets. Each test is named
// after its promise and has a small network of its own:
//
//	client    192.0.2.2 2001:db8::2 ─┐
//	                                 ├─ switch ─ host 192.0.2.1 2001:db8::1
//	neighbour 192.0.2.3 2001:db8::3 ─┘
//
// The firewall is the host's. Where packets are sent on, a machine is behind it:
//
//	host br-lab0 10.77.0.1 2001:db8:77::1 ── 10.77.0.2 2001:db8:77::2 behind
//
// with two published ports (DNAT, as container runtimes make them) and its own
// flows masqueraded. The suite needs root (or a user namespace) and, for the
// foreign rules and their dumps, the programs nft, ipset and those of iptables.
package fwtest
