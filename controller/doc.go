// Package controller is the broker: it takes knocks, decides them by policy,
// orders the doors from the host agents, keeps the sessions until their end, and
// serves the control API behind its own door. [New] and [Controller.Run] are the
// whole daemon; cmd/postern-controller gives it its files and its firewall.
//
//	knock ─> reader ─> worker ─> policy ─> sessions ─> link (host's stream)
//	                      └────> door (control port) ─> control API
//
// What has to be fast is in memory: hints, sessions, links, policy. Sessions are
// written behind, in batches; ends are written before they are acknowledged.
package controller
