// Package testkit is what tests of several packages share: network namespaces
// wired by virtual cables and switches, a check for goroutines left behind, and
// a bounded wait for a condition.
//
//	lan := testkit.NewSwitch(t)
//	host := lan.Attach(t, "192.0.2.1/24", "2001:db8::1/64")
//	client := lan.Attach(t, "192.0.2.2/24", "2001:db8::2/64")
//	host.Do(t, func() { listener, err = net.Listen("tcp", "192.0.2.1:22") })
//
// The namespaces have no names: they end with the test process, also when it is
// killed. A socket belongs for good to the namespace that it was made in.
package testkit
