package client_test

import (
	"net"
	"testing"

	"github.com/postern-sdp/postern/client"
)

func TestANameIsAServicesOrItsFullOne(t *testing.T) {
	for host, want := range map[string]string{
		"db": "db", "db.postern.internal": "db", "DB.Postern.Internal.": "db", "a.b": "a.b",
		"postern.internal": "postern.internal", "db.postern.internal.evil.example": "db.postern.internal.evil.example",
	} {
		if got := client.ServiceName(host); got != want {
			t.Errorf("%s is %q, want %q", host, got, want)
		}
	}
}

func TestDialContextTakesWhatDialersTake(t *testing.T) {
	device, _, _ := enrolled(t)
	d := dialer(t, device, client.DialerConfig{})
	for _, address := range []string{"echo:80", "echo", "echo.postern.internal:22"} {
		conn, err := d.DialContext(t.Context(), "tcp4", address)
		if err != nil {
			t.Fatal(err)
		}
		echoes(t, conn, address)
		conn.Close()
	}
	if _, err := d.DialContext(t.Context(), "udp", "echo:53"); err == nil {
		t.Error("a TCP service is dialled as UDP")
	}
	if _, err := d.DialContext(t.Context(), "unix", "echo"); err == nil {
		t.Error("any network goes")
	} else if _, ok := err.(interface{ Unwrap() error }).Unwrap().(net.UnknownNetworkError); !ok {
		t.Errorf("got %v", err)
	}
}
