// Package survey reads what packet filters a machine has, without changing any,
// and answers one question about them: would a packet that Postern lets in be
// dropped by somebody else?
//
// In netfilter an accept ends one chain and no more: the packet goes on to the
// next base chain of its hook, of any table, in the order of priorities, and each
// of them can still drop it. So a rule of ufw's, firewalld's or the
// administrator's own can shut the door that a pinhole opened.
//
// The survey follows one imagined packet through every base chain that is not
// Postern's. Of that packet it knows protocol, local port, interface and
// connection state. What it does not know leads to four shades of answer: a rule
// that depends on the source alone ([Rarely]) concerns a few, such as those that
// fail2ban shut out; one that depends on something that the survey cannot read
// ([Maybe]) might concern everybody.
//
// nftables and iptables-nft are read through netlink, iptables-legacy through
// iptables-legacy-save, and only where the kernel says that it has such tables.
// XDP programs, traffic control and what lies in front of the machine are not seen.
package survey
