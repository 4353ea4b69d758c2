// Package protect decides whether a host's rules are in force, and sees to it that
// putting them in force locks nobody out.
//
//	         Begin                     Confirm
//	off ───────────────> trial ───────────────────────> on
//	 ^                     │ its time is over, or reboot │
//	 ├─────────────────────┘                             │
//	 └──────────────────────── Revert ───────────────────┘
//
// The decision is a record on the disk, which everybody who changes the rules reads
// first: the agent, the commands of the administrator, and the unit that runs at
// boot. Who changes it writes the record first and the rules after; whoever finds
// them apart puts the rules right. During a trial the kernel itself counts the time
// ([firewall.Rules.Trial]): that it ends needs nobody to be alive.
package protect
