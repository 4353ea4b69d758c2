package client

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
)

// Domain is what services' names end with where a full name is wanted:
// "db.postern.internal" is the service db.
const Domain = "postern.internal"

// ServiceName returns the service that a host name stands for: the name itself, in
// lower case, without [Domain] and without the dot that ends a full name.
func ServiceName(host string) string {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	return strings.TrimSuffix(host, "."+Domain)
}

// DialContext is for programs that want a dialer by network and address, such as
// [http.Transport]. The address is a service's name, or its full name under
// [Domain]; its port says nothing, since a service has one. Networks are tcp and
// udp, with 4, 6 or neither behind.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = address
	}
	switch strings.TrimRight(network, "46") {
	case "tcp":
		return d.Dial(ctx, ServiceName(host))
	case "udp":
		return d.DialPacket(ctx, ServiceName(host))
	}
	return nil, fmt.Errorf("dial %s: %w", address, net.UnknownNetworkError(network))
}

// HTTPTransport returns a transport whose requests go to services:
// http://web.postern.internal/, or http://web/. It goes through no proxy.
func (d *Dialer) HTTPTransport() *http.Transport {
	return &http.Transport{
		DialContext:         d.DialContext,
		ForceAttemptHTTP2:   true,
		TLSHandshakeTimeout: 10 * time.Second,
		IdleConnTimeout:     d.Idle,
		MaxIdleConnsPerHost: 16,
	}
}
