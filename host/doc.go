// Package host is the agent on a protected machine: it dials out to the
// controller and takes its orders, keeps the sessions and their pinholes, takes
// host knocks, and is the host's end of the tunnels.
//
// One goroutine, the owner (sessions.run), changes sessions and talks to the
// firewall; everything else hands it orders. Only two things happen elsewhere: a
// host knock admits its source to the tunnel's socket on the goroutine that read
// it, because the client's next packet is right behind, and a tunnel looks its
// session up. Both take the same lock for a moment.
//
// Emergency knocks have a goroutine of their own (emergency.run), which writes to the
// disk before it hands the owner what to open.
//
// What the books say (pinholes) is what should be open. The kernel is brought to
// it in one transaction for each change, and compared with it now and then.
package host
