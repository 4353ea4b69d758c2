// Package agent lets programs of one person share sessions: a small process that is
// started when it is needed, and gone after a while without use, holds them, and
// others ask it for connections over a local socket that nobody else can reach.
//
// A request is a line of JSON, and so is the answer. After a yes, the socket is the
// connection. To the service go its bytes as they are, up to the end of that
// direction; from it come frames of a length (four bytes, big endian) and as many
// bytes. A length of zero and a last line of JSON tell why the direction has ended:
// nothing, or an error. Without that line, the agent has died. A length of all ones, and
// a line of JSON, is a notice: what the person has to know of the session. Datagrams
// are frames in both directions.
//
//	→ {"version":"1.2.0","do":"dial","service":"ssh"}
//	← {}
//	→ bytes
//	← 0000000b "SSH-2.0-..." … 00000000 {"error":{"code":"revoked","text":"…"}}
//
// Other commands that hold sessions publish a socket too, which tells what is open
// and dials nothing.
package agent
