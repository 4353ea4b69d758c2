// Package client reaches services that Postern protects. The command postern is a
// thin shell around it.
//
// A program that was enrolled opens its identity and dials services by their names,
// without a forwarder. Connections to a service share one session and one tunnel,
// which come back after a break and are renewed while in use:
//
//	c, err := client.Open(folder)
//	d := c.Dialer(client.DialerConfig{})
//	defer d.Close()
//	conn, err := d.Dial(ctx, "db")
//
// [Dialer.HTTPTransport] is for net/http, [Dialer.DialContext] for whatever else takes
// a dialer. [Access] is one session, for those who want to hold it themselves.
package client
