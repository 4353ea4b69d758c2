// Package proxy is a local proxy whose users name services: SOCKS5 (RFC 1928, CONNECT
// and UDP ASSOCIATE) and HTTP (CONNECT, and requests in absolute form) on one port,
// told apart by the first byte.
//
// SERVICE.postern.internal, and SERVICE alone when it is on the person's list and has
// no dot, go through the perimeter. Everything else is refused, or dialled directly
// where [Direct] says so.
//
// Whoever reaches the port uses the person's sessions, so it belongs on the loopback
// interface, and a [Password] keeps other users of the machine out. Web pages reach
// the port as well, through the browser: they get neither a connection nor, in a way
// that they could read, the PAC file, which is all that is served in origin form.
package proxy
