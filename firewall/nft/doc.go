// Package nft is the nftables backend of [firewall.Firewall]: it speaks netlink
// to the kernel and needs no nft program. `nft list table inet postern` shows
// what it made:
//
//	set exact4, exact6      { addr . src port . proto . dst port }  timeouts
//	set wide4, wide6        { addr . proto . dst port }             timeouts
//	set doors               { proto . dst port }  every port that ever had a pinhole
//	set servers4, servers6  { addr . port }  machines behind that were sent datagrams
//	set trial, keepN        { nfproto }  timers: running while they have elements
//	set boot_1a2b3c4d       empty: its name says in which boot pinholes were made
//	counter dropped_input, dropped_door, dropped_forward, dropped_output
//
//	chain input (policy drop)           chain output (policy drop)
//	  trial over         accept           trial over           accept
//	  loopback           accept           loopback             accept
//	  keep rules, ports  accept           keep rules, ports    accept (mirrored)
//	  in a pinhole set   accept           in a pinhole set     accept (mirrored)
//	  to a door          drop             from a door          drop
//	  replies to own     accept           own flows            accept
//	  ICMP errors        accept           ICMP errors          of flows from inside
//	  ND, MLD, DHCP      accept           ND, MLD              accept
//	  rest               drop             rest                 drop
//
//	chain forward (policy drop)
//	  trial over                          accept
//	  from inside to inside               accept
//	  from inside: from a server in       drop
//	    servers, else flows begun there   accept
//	  to inside: replies to those         accept
//	  sent on by DNAT: keep rules, ports, accept, and note the server
//	    in a pinhole set, both directions
//	  ICMP errors of those                accept
//	  rest                                drop
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
// The same holds for a port that the host publishes for a machine behind it: the
// look-up takes the client's address and port from the packet and the port that
// was asked for from conntrack, which remembers it for replies too. What DNAT
// does not send on is not looked up: a pinhole never routes anybody through the
// host. (A port that is redirected to another one of the host itself is known to
// the input chain by the latter.) The servers behind are to the forward chain what doors are to the others;
// a UDP server that was published before the first pinhole to it is not yet among
// them, and one that is can begin no flow from that port.
//
// Nothing is answered: the output chain also drops resets and ICMP errors that
// the kernel would send to a stranger. The base chains come before the usual
// filter priority, so that no other table answers (rejects) a packet first; a
// later table may still drop what this one accepts.
//
// A change of several sets is one transaction, but a packet looks at them one by
// one; where that matters, a rule looks twice.
//
// Covered are IPv4 and IPv6 packets to and from the host itself, and those that
// its IP layer sends on. Not covered are ARP, bridged frames (unless br_netfilter
// hands them to the forward hook, where the bridge's name counts), machines on
// macvlan or ipvlan interfaces, and what passes the hooks by: flows that somebody
// else's flowtable has taken over, BPF programs, AF_XDP.
package nft
