// Package iptables is the backend of [firewall.Firewall] for machines whose other
// rules are iptables': iptables-nft or iptables-legacy, IPv4 and IPv6, with the
// pinholes in IP sets. `iptables-save` and `ipset list` show what it made, for the
// name postern:
//
//	postern-u4042     every port that ever had a pinhole is a door, with a list of
//	                  four sets: postern-u4042-x4, -x6 { addr, proto:src port }
//	                  and        postern-u4042-w4, -w6 { addr }       timeouts
//	postern-doors-t   the TCP ports that are doors, postern-doors-u the UDP ports
//
//	mangle INPUT → POSTERN-INPUT        mangle OUTPUT → POSTERN-OUTPUT
//	  loopback           pass             loopback             pass
//	  keep rules, ports  pass             keep rules, ports    pass (mirrored)
//	  to a door          POSTERN-DOOR-IN  from a door          POSTERN-DOOR-OUT
//	  replies to own     pass             own flows            pass
//	  ICMP errors        pass             ND, MLD              pass
//	  ND, MLD, DHCP      pass             rest                 drop
//	  rest               drop
//
//	POSTERN-DOOR-IN, -DOOR-OUT          mangle FORWARD → POSTERN-FORWARD
//	  for each door,                      from inside          POSTERN-INSIDE
//	  peer in its sets   pass             replies to inside    pass
//	  rest               drop             sent on by DNAT      POSTERN-ARRIVING, -LEAVING
//	                                      rest                 drop
//
// No rule passes an inbound flow because it is established: see package nft for
// why, and for what the doors and the SYN that own flows begin with are good for.
//
// # Why two tables
//
// The decision to drop is made in the table mangle, ahead of every filter: nobody's
// rules answer (reject) a packet first, and flushing or reloading the table filter,
// as ufw, firewalld, docker and `iptables -F` do, leaves the host dark. What passes
// returns to the built-in chain, where others' rules of that table see it still.
// Dropping first is not enough, though: ufw or a policy of DROP in the table filter
// would drop what Postern let in. So the same look-ups stand in front of the table
// filter too and accept there what has a pinhole, a keep rule or an open port.
// Replies to the host's own flows, and flows from inside, are left to those who come
// next.
//
// # Why a set for each door
//
// There is no type of sets for source, source port, protocol and local port
// together, and of a packet that DNAT sends on only a rule can name the port that
// was asked for (--ctorigdstport). So each door has its sets, and two rules in each
// of four chains; a packet meets a look-up for its door only, whatever the number
// of pinholes, and one comparison for each other door if it is for a door at all.
//
// # What differs from package nft
//
// The kernel counts an element's time in whole seconds, from the moment it is put in.
// What is granted is rounded down: a pinhole ends up to a second early, never late.
// One for less than a second ends after one second; whoever opens such revokes it.
// It counts 24.8 days at most: a keep rule for longer is set anew while somebody
// calls Apply or List. With nobody left to do that it ends early, after those days.
//
// Rules change in one transaction for each table of each family, not in one for
// all; Apply opens first and revokes then, so nothing replaced is ever missing, but
// both are open for some microseconds. That somebody removed a rule is noticed
// before each opening and after each revocation: with iptables-nft by how many rules
// each of our chains has and how many lead to it, which is asked for when any rule has
// changed, with iptables-legacy by how many rules refer to our sets. Only when that is
// not as it was, and now and then for List, all rules are read, which takes programs:
// what only revokes does not wait for it, and nobody waits for Dropped.
//
// Chains are replaced by iptables-restore --noflush, which go-iptables does not
// offer; it puts the jumps in front. The first pinhole of a door costs such a
// call, some milliseconds; every other change is a message to the kernel.
package iptables
