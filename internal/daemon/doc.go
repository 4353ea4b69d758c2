// Package daemon is how a daemon of ours speaks with the service manager that
// started it, systemd(1) or one that keeps its protocol, sd_notify(3): that it
// serves, how it fares, that it is alive. Without a manager all of it does nothing.
package daemon
