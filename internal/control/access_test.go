package control

import (
	"errors"
	"testing"

	"github.com/postern-sdp/postern/spa"
)

func TestAnAccessSurvivesItsFlags(t *testing.T) {
	for f := spa.GrantFlags(0); f <= spa.FlagDirect|spa.FlagUDP|spa.FlagAddress; f++ {
		a := AccessFromFlags(f)
		if got := a.Flags(); got != f {
			t.Errorf("flags %03b became %+v and %03b", f, a, got)
		}
		if err := a.Validate(); err != nil {
			t.Errorf("%+v: %v", a, err)
		}
	}
	if f := (Access{Mode: ModeGateway}).Flags(); f != 0 {
		t.Errorf("a gateway's flags are %03b: the client needs not know", f)
	}
}

func TestEmptyFieldsMeanWhatTheModeDoes(t *testing.T) {
	for mode, want := range map[Mode]Access{
		"":          {ModeTunnel, TransportTCP, BindExact},
		ModeGateway: {ModeGateway, TransportTCP, BindExact},
		ModeDirect:  {ModeDirect, TransportTCP, BindAddress},
	} {
		if got := (Access{Mode: mode}).Resolved(); got != want {
			t.Errorf("%q: %+v, want %+v", mode, got, want)
		}
	}
	for _, a := range []Access{{Mode: "bridge"}, {Transport: "sctp"}, {Binding: "network"}} {
		if err := a.Validate(); !errors.Is(err, ErrAccess) {
			t.Errorf("%+v: %v", a, err)
		}
	}
}
