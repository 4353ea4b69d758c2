// Package lab builds a small internet on one machine out of Linux network
// namespaces and runs the real Postern on it: the ground of `make demo` and of
// the end-to-end tests.
//
//	client    10.7.0.2 ─┐                        ┌─ stranger   198.51.100.66  2001:db8:1::66
//	                    ├─ nat 198.51.100.10 ─┐  │
//	neighbour 10.7.0.3 ─┘                     ├──┼─ controller 198.51.100.20  2001:db8:1::20
//	                                          │  │
//	roamer    10.8.0.2 ─── nat2 .11 and .12 ──┘  └─ host       198.51.100.30  2001:db8:1::30
//
// All of 198.51.100.0/24 and 2001:db8:1::/64 is one bridge, the "internet", in
// a namespace of its own. nat shows everyone one address for the client and its
// neighbour. nat2 shows the controller .11 and the host .12, as a carrier's NAT
// may. Scenes add what they need: an administrator's machine (.40), a container or an
// inner network behind the host, clients with no NAT (.42, ::40, ::42). The namespaces
// are named PREFIX-NAME, so several labs can stand side by side, and what one left
// behind is found and removed by its prefix.
package lab
