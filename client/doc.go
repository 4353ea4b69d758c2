// Package client reaches services that Postern protects. The command postern is a
// thin shell around it.
//
// A program that was enrolled opens its identity, asks for access to a service and
// dials it as often as it likes:
//
//	c, err := client.Open(folder)
//	access, err := c.Access(ctx, client.AccessConfig{Service: "db"})
//	defer access.Close()
//	conn, err := access.Dial(ctx)
//
// Access keeps the session alive while connections are open, as far as policy
// allows, and comes back after a break.
package client
