// Package tunnel carries a session's bytes: QUIC (RFC 9000) with mutual TLS 1.3
// between a client and a host, one QUIC stream for each TCP connection or UDP flow.
//
// A [Gate] is the UDP socket of either end. It hands QUIC nothing from a source
// that has not been admitted, so that a stranger meets silence: QUIC by itself
// answers a stranger's first packet with certificates, and an unknown version
// with a list of its own.
//
// A client sends its host knock from the socket of the tunnel, right ahead of
// QUIC's first packet ([Dial]). It knocks again when nobody answers any more: a
// NAT may have moved it, and the host lets in sources, not people.
//
// Each stream starts with a header of the client's and an answer of the host's:
//
//	header: kind [1] = 1 for TCP, 2 for UDP; session [16]
//	answer: status [1] = 0
//	answer: status [1] != 0, length [1], text [length] (UTF-8, for people)
//
// After the answer 0 the stream is the TCP connection's bytes. The end of one
// direction (FIN) leaves the other one open; a reset of either side's TCP
// connection resets the stream, and the other way round.
//
// Or it stands for a UDP flow ([Flow]), and ends with it. The flow's datagrams
// travel in QUIC DATAGRAM frames (RFC 9221), which get lost, overtake each other and
// wait for nothing, and those that do not fit over the stream:
//
//	frame:  number [1 to 8], datagram     number: the stream's, divided by four
//	stream: length [2], datagram
package tunnel
