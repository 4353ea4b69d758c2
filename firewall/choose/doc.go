// Package choose opens the firewall backend that suits the machine.
//
// An accept in one nftables table does not overrule a drop in another one. So where
// iptables' input chain drops or rejects (ufw's does, and that of many an
// administrator), what Postern's own table lets in would be dropped there, and the
// iptables backend is chosen, whose rules stand in front of the others in the same
// chain. Everywhere else it is nftables, which is faster and changes pinholes in
// transactions.
//
// What was noted of the time before holds at boot, when the others' rules may not be
// there yet, and where rules must be in force on a machine that cannot be surveyed. What is installed already is carried on with: a restart does not change the
// backend under live pinholes. When the administrator orders another one, Install
// puts the new one up before it takes the old one away, and carries the pinholes over.
package choose
