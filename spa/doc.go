// Package spa seals and opens Postern's single-packet authorization datagrams.
// Bytes and time go in, values come out: it opens no socket and reads no clock.
//
// Every datagram is 256 bytes long and looks uniformly random to anyone without
// the secrets. docs/PROTOCOL.md is normative. Integers are big-endian.
//
//	knock        offset size
//	hint              0    8  names the device for one epoch
//	ephemeral         8   32  X25519 public key, masked
//	body             40  184  sealed to the controller's static key
//	mac             224   32  HMAC-SHA-256 over all before, and the audience
//
//	host knock   offset size
//	hint              0    8  names the session for one epoch
//	nonce             8   24  of XChaCha20-Poly1305
//	body             32  192  sealed under the session's key
//	mac             224   32  HMAC-SHA-256 over all before, and the audience
//
//	emergency    offset size
//	hint              0    8  names the emergency key and its counter
//	nonce             8   24  of XChaCha20-Poly1305
//	body             32  192  sealed under a key of that counter
//	mac             224   32  HMAC-SHA-256 over all before, and the audience
//
//	reply        offset size
//	body              0  256  sealed under a key of the knock it answers
package spa
