package control_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/postern-sdp/postern/internal/control"
	"github.com/postern-sdp/postern/internal/control/controltest"
	"github.com/postern-sdp/postern/internal/testkit"
	"github.com/postern-sdp/postern/spa"
	"github.com/postern-sdp/postern/spa/key"
)

func TestAKnockIsAnsweredByTheGrant(t *testing.T) {
	testkit.NoLeak(t)
	c := controltest.New(t)
	answer, err := control.Knock(t.Context(), c.KnockConfig())
	if err != nil {
		t.Fatal(err)
	}
	if answer.Grant == nil || answer.Grant.Host != c.ID {
		t.Errorf("got %+v, want a grant of the controller %s", answer.Grant, c.ID)
	}
	if answer.Offset.Abs() > time.Second {
		t.Errorf("clock offset %s on one machine", answer.Offset)
	}
	if answer.Server.String() != c.Address() {
		t.Errorf("answered by %s, want %s", answer.Server, c.Address())
	}
}

// The second knock must be another datagram: a copy would be a replay.
func TestALostKnockIsSentAgainAfresh(t *testing.T) {
	stalls := testkit.WatchStalls(t)
	testkit.NoLeak(t)
	c := controltest.New(t)
	c.Set(func(c *controltest.Controller) { c.Lose = 2 })
	if _, err := control.Knock(t.Context(), c.KnockConfig()); err != nil {
		t.Fatal(err)
	}
	if n := c.Count(spa.KindControl); n != 3 && !stalls.Excuse(n == 4, 700*time.Millisecond) {
		t.Errorf("the controller accepted %d knocks, want 3", n)
	}
	c.Set(func(c *controltest.Controller) {
		if len(c.Rejects) != 0 {
			t.Errorf("it rejected some: %v", c.Rejects)
		}
	})
}

func TestSilenceIsNoAnswer(t *testing.T) {
	testkit.NoLeak(t)
	silent, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	closed, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	closed.Close() // its port answers with ICMP errors
	for name, address := range map[string]string{
		"silent": silent.LocalAddr().String(), "closed": closed.LocalAddr().String(),
	} {
		k := knockConfig()
		k.Controller.Addresses = []string{address}
		k.Timeout = 300 * time.Millisecond
		if _, err := control.Knock(t.Context(), k); !errors.Is(err, control.ErrNoAnswer) {
			t.Errorf("%s: got %v, want %v", name, err, control.ErrNoAnswer)
		}
	}
}

func knockConfig() control.KnockConfig {
	return control.KnockConfig{
		Controller: control.Controller{Name: "x", PublicKey: key.NewControllerPrivate().Public()},
		ID:         key.NewID(), Secret: key.NewKnock(), Kind: spa.KindControl,
	}
}

func TestAddressesThatCannotBeReachedAreNotSilence(t *testing.T) {
	k := knockConfig()
	k.Controller.Addresses = []string{"no-such-host.invalid:4040"}
	_, err := control.Knock(t.Context(), k)
	if !errors.Is(err, control.ErrNoAddress) || errors.Is(err, control.ErrNoAnswer) {
		t.Errorf("got %v, want %v", err, control.ErrNoAddress)
	}
}

func TestAKnockThatCannotBeMadeFailsAtOnce(t *testing.T) {
	c := controltest.New(t)
	k := c.KnockConfig()
	k.Kind, k.Service = spa.KindAccess, string(make([]byte, 64))
	if _, err := control.Knock(t.Context(), k); !errors.Is(err, spa.ErrService) {
		t.Errorf("got %v, want %v", err, spa.ErrService)
	}
}

func TestADenialTellsWhyAndTheTime(t *testing.T) {
	c := controltest.New(t)
	c.Set(func(c *controltest.Controller) {
		c.Deny = &spa.Denial{Code: spa.CodeNotGranted, Text: "no\x1b[2J grant"}
	})
	k := c.KnockConfig()
	k.Kind, k.Service = spa.KindAccess, "echo"
	answer, err := control.Knock(t.Context(), k)
	denied, ok := errors.AsType[*control.DeniedError](err)
	if !ok || denied.Code != spa.CodeNotGranted || denied.Text != "no [2J grant" {
		t.Errorf("got %q, want the denial without control characters", err)
	}
	if answer.Time.IsZero() || answer.Grant != nil {
		t.Errorf("got %+v, want the controller's time and no grant", answer)
	}
}

func TestAnotherAddressIsTriedWhenOneIsSilent(t *testing.T) {
	testkit.NoLeak(t)
	c := controltest.New(t)
	silent, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	k := c.KnockConfig()
	k.Controller.Addresses = []string{silent.LocalAddr().String(), c.Address()}
	stalls := testkit.WatchStalls(t)
	begin := time.Now()
	answer, err := control.Knock(t.Context(), k)
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > stalls.Within(600*time.Millisecond) {
		t.Errorf("took %s, want the second address to be tried before any retry", took)
	}
	k.Prefer = answer.Server
	begin = time.Now()
	if _, err := control.Knock(t.Context(), k); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > stalls.Within(200*time.Millisecond) {
		t.Errorf("took %s, want the address that answered before to be tried first", took)
	}
	if netip.MustParseAddrPort(c.Address()) != answer.Server {
		t.Errorf("answered by %s", answer.Server)
	}
}

// A stored offset that was right once may be wrong by now, and the other way round.
func TestAKnockGetsThroughWithARightOrAnOutdatedClockOffset(t *testing.T) {
	for name, test := range map[string]struct{ skew, stored time.Duration }{
		"our clock is wrong and known to be":     {-2 * time.Hour, -2 * time.Hour},
		"our clock was wrong and has been set":   {0, 3 * time.Hour},
		"a small offset within what is accepted": {20 * time.Second, 0},
	} {
		t.Run(name, func(t *testing.T) {
			c := controltest.New(t)
			c.Set(func(c *controltest.Controller) { c.Skew = test.skew })
			c.Roll()
			k := c.KnockConfig()
			k.Offset = test.stored
			answer, err := control.Knock(t.Context(), k)
			if err != nil {
				t.Fatal(err)
			}
			if wrong := (answer.Offset - test.skew).Abs(); wrong > time.Second {
				t.Errorf("learned offset %s, want %s", answer.Offset, test.skew)
			}
		})
	}
}

// Each knock of a retry that was only slow has a session of its own.
func TestLateAnswersAreHandedOn(t *testing.T) {
	testkit.NoLeak(t)
	c := controltest.New(t)
	c.AddHost()
	c.Set(func(c *controltest.Controller) { c.Delay = time.Second })
	k := c.KnockConfig()
	k.Kind, k.Service = spa.KindAccess, "echo"
	var group sync.WaitGroup
	late := make(chan control.Answer, 8)
	k.Group, k.Late = &group, func(a control.Answer) { late <- a }
	first, err := control.Knock(t.Context(), k)
	if err != nil {
		t.Fatal(err)
	}
	group.Wait()
	close(late)
	n := 0
	for a := range late {
		n++
		if a.Grant == nil || a.Grant.Session == first.Grant.Session {
			t.Errorf("late answer %+v, want another session", a.Grant)
		}
	}
	if want := c.Count(spa.KindAccess) - 1; n != want || n == 0 {
		t.Errorf("%d late answers to %d further knocks", n, want)
	}
}

func TestACancelledKnockReturnsTheCause(t *testing.T) {
	testkit.NoLeak(t)
	c := controltest.New(t)
	c.Set(func(c *controltest.Controller) { c.Lose = 100 })
	why := errors.New("told to stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		for c.Count(spa.KindControl) == 0 {
			<-time.After(time.Millisecond)
		}
		cancel(why)
	}()
	if _, err := control.Knock(ctx, c.KnockConfig()); !errors.Is(err, why) {
		t.Errorf("got %v, want %v", err, why)
	}
}
