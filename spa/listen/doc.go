// Package listen brings knocks in from the network, in one of two ways behind
// one interface, [Listener]:
//
//   - [Socket] is a UDP socket with batched reads (recvmmsg). Its port has to be
//     open in the firewall.
//   - [Capture] reads passively through packet sockets (AF_PACKET, a memory-mapped
//     ring, a classic BPF filter in the kernel). Nothing is bound, and because it
//     sits ahead of the firewall the port stays closed there.
//
// Both deliver unicast UDP datagrams of exactly one payload length that were sent
// to one port of this host over IPv4 or IPv6, and drop everything else without an
// answer. Neither authenticates anything: that is package spa's part.
//
// The listeners exist on Linux; elsewhere only the types do.
package listen
