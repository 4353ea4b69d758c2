// Package notify hears what the kernel tells about changes of nftables rules,
// those of iptables-nft among them, from whoever makes them.
package notify
