package control_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/control/controltest"
	"github.com/postern-sdp/postern/internal/testkit"
)

// hanging is a resolver whose look-ups wait for as long as they may.
func hanging() *net.Resolver {
	return &net.Resolver{
		PreferGo: true,
		Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		},
	}
}

func TestANameThatHangsIsInNobodysWay(t *testing.T) {
	testkit.NoLeak(t)
	c := controltest.New(t)
	k := c.KnockConfig()
	k.Controller.Addresses, k.Resolver = []string{"hangs.example:62201", c.Address()}, hanging()
	if _, err := control.Knock(t.Context(), k); err != nil {
		t.Error(err)
	}
}

func TestTheAddressThatAnsweredLastServesWhileItsNameHangs(t *testing.T) {
	testkit.NoLeak(t)
	c := controltest.New(t)
	k := c.KnockConfig()
	k.Controller.Addresses, k.Resolver = []string{"hangs.example:62201"}, hanging()
	k.Prefer = netip.MustParseAddrPort(c.Address())
	if _, err := control.Knock(t.Context(), k); err != nil {
		t.Error(err)
	}
}

func TestNamesThatOnlyHangAreNotTheControllersSilence(t *testing.T) {
	k := knockConfig()
	k.Controller.Addresses, k.Resolver = []string{"hangs.example:62201"}, hanging()
	k.Timeout = 100 * time.Millisecond
	if _, err := control.Knock(t.Context(), k); !errors.Is(err, control.ErrNoAddress) || errors.Is(err, control.ErrNoAnswer) {
		t.Errorf("got %v, want %v", err, control.ErrNoAddress)
	}
}

// An address that is none of the controller's any more is not asked.
func TestAnAddressOfThePastIsNotPreferredToTheOnesThatAreTold(t *testing.T) {
	past, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer past.Close()
	c := controltest.New(t)
	k := c.KnockConfig()
	k.Prefer = past.LocalAddr().(*net.UDPAddr).AddrPort()
	if _, err := control.Knock(t.Context(), k); err != nil {
		t.Fatal(err)
	}
	past.SetReadDeadline(time.Now())
	if _, _, err := past.ReadFrom(make([]byte, 1000)); err == nil {
		t.Error("it was knocked at")
	}
}
