package tunnel

import (
	"crypto/tls"
	"time"

	"github.com/quic-go/quic-go"
)

// ALPN is the protocol name of tunnels (RFC 7301).
const ALPN = "postern-tunnel/1"

// What both ends use unless configured otherwise.
const (
	// DefaultIdle is the silence, on a machine that is awake, after which a client
	// gives a connection up.
	DefaultIdle = 30 * time.Second
	// DefaultSleep is how long a client may be away, asleep or without a network, until
	// its connection is gone. The session's own deadline may come first. PROTOCOL 8.5
	DefaultSleep      = time.Hour
	DefaultKeepAlive  = 10 * time.Second
	DefaultMaxStreams = 1024 // at once, on one connection
	// DefaultFlowIdle is how long a UDP flow may be silent. RFC 4787, section 4.3,
	// wants two minutes at least of a NAT, and five by default.
	DefaultFlowIdle = 5 * time.Minute
	// DefaultMaxFlows bounds the UDP flows at once on one connection.
	DefaultMaxFlows = 256
	// DefaultMaxPerDevice bounds the connections to services at once of one device,
	// whatever its sessions, connections and streams are.
	DefaultMaxPerDevice = 4096
)

// Receive windows: what an end buffers when its reader is slow. They start at the
// first number and grow to the second with the path's delay.
const (
	streamWindow        = 4 << 20  // bytes
	streamWindowMax     = 16 << 20 // bytes
	connectionWindow    = 6 << 20  // bytes
	connectionWindowMax = 24 << 20 // bytes
)

// quicConfig is for both ends. Packets start small enough for any path: a larger
// first size would make handshakes fail where the path is narrow.
func quicConfig(handshake, sleep, keepAlive time.Duration) *quic.Config {
	return &quic.Config{
		Versions:                       []quic.Version{quic.Version1},
		HandshakeIdleTimeout:           handshake,
		MaxIdleTimeout:                 orDefault(sleep, DefaultSleep),
		KeepAlivePeriod:                orDefault(keepAlive, DefaultKeepAlive),
		InitialStreamReceiveWindow:     streamWindow,
		MaxStreamReceiveWindow:         streamWindowMax,
		InitialConnectionReceiveWindow: connectionWindow,
		MaxConnectionReceiveWindow:     connectionWindowMax,
		MaxIncomingStreams:             -1,
		MaxIncomingUniStreams:          -1,
		EnableDatagrams:                true,
	}
}

// tlsConfig is for both ends: TLS 1.3, the hybrid post-quantum key exchange
// first, no session ever resumed.
func tlsConfig(now func() time.Time) *tls.Config {
	return &tls.Config{
		Time:                   now,
		MinVersion:             tls.VersionTLS13,
		CurvePreferences:       []tls.CurveID{tls.X25519MLKEM768, tls.X25519},
		NextProtos:             []string{ALPN},
		SessionTicketsDisabled: true,
	}
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return otherwise
}
