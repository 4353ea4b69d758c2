package tunnel

import (
	"errors"
	"testing"

	"github.com/quic-go/quic-go"
)

// Which of QUIC's two timers ends a handshake that nobody answers is chance.
func TestSilenceWhileDiallingIsNoAnswerWhicheverTimerFires(t *testing.T) {
	for _, err := range []error{&quic.IdleTimeoutError{}, &quic.HandshakeTimeoutError{}} {
		if got := translateDial(err); !errors.Is(got, ErrNoAnswer) || errors.Is(got, ErrLost) {
			t.Errorf("%T while dialling: %v, want %v", err, got, ErrNoAnswer)
		}
	}
	if got := translate(&quic.IdleTimeoutError{}); !errors.Is(got, ErrLost) {
		t.Errorf("on a connection that was there: %v, want %v", got, ErrLost)
	}
}
