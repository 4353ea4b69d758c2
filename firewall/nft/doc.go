// Package nft is the nftables backend of [firewall.Firewall]: it speaks netlink
// to the kernel and needs no nft program. `nft list table inet postern` shows
// what it made:
//
//	set exact4, exact6  { addr . src port . proto . dst port }  timeouts
//	set wide4, wide6    { addr . proto . dst port }             timeouts
//	set doors           { proto . dst port }  every port that ever had a pinhole
//
//	chain input (policy drop)           chain output (policy drop)
//	  loopback           accept           loopback             accept
//	  keep rules, ports  accept           keep rules, ports    accept (mirrored)
//	  in a pinhole set   accept           in a pinhole set     accept (mirrored)
//	  to a door          drop             from a door          drop
//	  replies to own     accept           own flows            accept
//	  ICMP errors        accept           ND, MLD              accept
//	  ND, MLD, DHCP      accept           rest           count, drop
//	  rest        count, drop
//
// No rule accepts an inbound flow because it is established: each packet of it,
// in both directions, is looked up in the sets. So an element that is deleted or
// times out cuts its flow with the next packet, whatever conntrack thinks.
// Conntrack only tells apart the flows that the host itself began (direction
// original on output, reply on input). The doors keep a flow from changing sides:
// a server that goes on sending after conntrack forgot its client would look like
// a client itself. For the same reason a TCP flow of the host's own must begin
// with a SYN: what was running when the table was first installed on a machine
// without connection tracking is cut, in both directions. Nothing in a datagram
// tells who began: a UDP server that was sending to somebody when the table was
// first installed can go on, until its port becomes a door.
//
// Nothing is answered: the output chain also drops resets and ICMP errors that
// the kernel would send to a stranger. The base chains come before the usual
// filter priority, so that no other table answers (rejects) a packet first; a
// later table may still drop what this one accepts.
//
// Covered are packets to and from the host itself, IPv4 and IPv6. Packets that
// the host forwards, among them those to ports published by containers (DNAT
// before the forward hook), and ARP are not touched yet.
package nft
