package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/postern-sdp/postern/firewall"
)

// Step is one promise, shown on the running system. Run returns what was measured,
// and an error when the promise does not hold.
type Step struct {
	Name string
	Run  func(ctx context.Context, l *Lab) (evidence string, err error)
}

// Steps are the promises of the demo, in their order: each leaves the system as the
// next one needs it.
func Steps() []Step {
	return []Step{
		{"without Postern, the scan finds the host", bareHostAnswers},
		{"the system starts: controller, agent, sshd, two clients", startSystem},
		{"a stranger's scan finds no host (TCP, UDP, v4, v6)", hostIsDark},
		{"a stranger's scan finds no controller", controllerIsDark},
		{"one knock opens a pinhole for the client", knockOpens},
		{"ssh through the tunnel runs a command", sshRuns},
		{"a service without a grant is denied, with the reason", denied},
		{"the neighbour behind the same NAT meets silence", neighbourMeetsSilence},
		{"a client whose NAT shows the host another address gets in", roamerGetsIn},
		{"a recorded knock opens nothing", replayOpensNothing},
		{"the controller killed: sessions live on, old knocks stay old", controllerRestarts},
		{"revocation cuts a running transfer", revocationCuts},
		{"the deadline closes the door, the agent killed", deadlineCloses},
		{"the agent comes back and serves again", agentReturns},
	}
}

var errPromise = errors.New("the promise does not hold")

func broken(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errPromise, fmt.Sprintf(format, args...))
}

func bareHostAnswers(_ context.Context, l *Lab) (string, error) {
	scan, err := l.Scan("stranger", StrangerV4, HostV4)
	if err == nil && scan.Answers < 60000 {
		err = broken("the scan itself sees nothing: %s", scan)
	}
	return scan.String(), err
}

func startSystem(ctx context.Context, l *Lab) (string, error) {
	start := time.Now()
	err := l.StartSystem(ctx)
	return fmt.Sprintf("ready in %s", time.Since(start).Round(time.Millisecond)), err
}

func hostIsDark(_ context.Context, l *Lab) (string, error) {
	return l.dark("stranger", StrangerV4, HostV4, StrangerV6, HostV6)
}

func controllerIsDark(_ context.Context, l *Lab) (string, error) {
	return l.dark("stranger", StrangerV4, ControllerV4, StrangerV6, ControllerV6)
}

// dark scans from source to target for each pair of addresses.
func (l *Lab) dark(from string, pairs ...netip.Addr) (string, error) {
	var evidence []string
	for i := 0; i+1 < len(pairs); i += 2 {
		scan, err := l.Scan(from, pairs[i], pairs[i+1])
		evidence = append(evidence, scan.String())
		if err == nil && scan.Answers != 0 {
			err = broken("%s", scan)
		}
		if err != nil {
			return strings.Join(evidence, "; "), err
		}
	}
	return strings.Join(evidence, "; "), nil
}

func knockOpens(ctx context.Context, l *Lab) (string, error) {
	before, err := l.Pinholes(ctx)
	if err != nil {
		return "", err
	}
	if len(before) != 0 {
		return "", broken("pinholes before the first knock: %v", before)
	}
	start := time.Now()
	if _, err := l.postern(ctx, "client", nil, "knock", "ssh-lab"); err != nil {
		return "", err
	}
	took := time.Since(start)
	after, err := l.Pinholes(ctx)
	if err != nil {
		return "", err
	}
	if len(after) != 1 || after[0].Source != NatV4 || after[0].Port != tunnelPort {
		return "", broken("pinholes after the knock: %v", after)
	}
	return fmt.Sprintf("%s, in the kernel %s after the command was started", after[0], took.Round(time.Millisecond)),
		l.endSessions(ctx)
}

// endSessions revokes what is live and waits until the host's kernel is shut.
func (l *Lab) endSessions(ctx context.Context) error {
	sessions, err := l.Sessions(ctx)
	if err != nil {
		return err
	}
	for _, s := range sessions {
		if _, err := l.Admin(ctx, "session", "revoke", s.ID); err != nil {
			return err
		}
	}
	return Wait(ctx, 5*time.Second, "the pinholes to close", func() (bool, error) {
		open, err := l.Pinholes(ctx)
		return err == nil && len(open) == 0, err
	})
}

func sshRuns(ctx context.Context, l *Lab) (string, error) {
	start := time.Now()
	out, err := l.SSH(ctx, "client", "echo in as $(id -un), from $SSH_CONNECTION")
	took := time.Since(start)
	out = strings.TrimSpace(out)
	if err == nil && !strings.HasPrefix(out, "in as root, from 127.0.0.1") {
		err = broken("ssh printed %q", out)
	}
	return fmt.Sprintf("%q, %s in all", out, took.Round(time.Millisecond)), err
}

func denied(ctx context.Context, l *Lab) (string, error) {
	_, err := l.postern(ctx, "client", nil, "knock", "secret")
	if err == nil {
		return "", broken("the knock for a service without a grant was answered with yes")
	}
	if !strings.Contains(err.Error(), "denied") {
		return "", broken("the client does not say that it was denied: %v", err)
	}
	_, line, _ := strings.Cut(err.Error(), "denied")
	line, _, _ = strings.Cut(line, "\n")
	return "denied" + line, nil
}

func neighbourMeetsSilence(ctx context.Context, l *Lab) (evidence string, err error) {
	tap, err := l.tap("nat")
	if err != nil {
		return "", err
	}
	defer tap.close()
	forward, banner, err := l.sshBanner(ctx, "client")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, forward.Close()) }()
	recorded := tap.recorded(tunnelPort) // host knock, Initials and all
	if len(recorded) == 0 {
		return "", errors.New("the tap recorded nothing")
	}
	scan, err := l.dark("neighbour", netip.MustParseAddr("10.7.0.3"), HostV4)
	if err != nil {
		return scan, err
	}
	answers, err := l.send("neighbour", netip.AddrPortFrom(HostV4, tunnelPort), recorded)
	if err == nil && answers != 0 {
		err = broken("%d answers to the client's own datagrams sent by its neighbour", answers)
	}
	return fmt.Sprintf("while the client reads %q: %s; the client's %d datagrams sent again: %d answers",
		banner, scan, len(recorded), answers), err
}

// sshBanner connects to the host's sshd and reads its first line.
func (l *Lab) sshBanner(ctx context.Context, who string) (*Forward, string, error) {
	forward, err := l.Connect(ctx, who, "ssh-lab")
	if err != nil {
		return nil, "", err
	}
	conn, err := forward.Dial()
	if err != nil {
		return nil, "", errors.Join(err, forward.Close())
	}
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	banner, err := bufio.NewReader(conn).ReadString('\n')
	if err == nil && !strings.HasPrefix(banner, "SSH-2.0-") {
		err = broken("sshd's banner is %q", banner)
	}
	if err != nil {
		return nil, "", errors.Join(fmt.Errorf("read sshd's banner: %w", err), conn.Close(), forward.Close())
	}
	forward.conn = conn
	return forward, strings.TrimSpace(banner), nil
}

func roamerGetsIn(ctx context.Context, l *Lab) (evidence string, err error) {
	forward, banner, err := l.sshBanner(ctx, "roamer")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, forward.Close()) }()
	sessions, err := l.Sessions(ctx)
	if err != nil {
		return "", err
	}
	saw := netip.Addr{}
	for _, s := range sessions {
		if s.Device == "roamer" {
			saw = s.Source
		}
	}
	if saw != Nat2ToOthers {
		return "", broken("the controller saw the roamer at %s, not at %s", saw, Nat2ToOthers)
	}
	var open []firewall.Pinhole
	err = Wait(ctx, 5*time.Second, "the roamer's pinhole to be the only one", func() (bool, error) {
		open, err = l.Pinholes(ctx)
		return len(open) == 1 && open[0].Source == Nat2ToHost && open[0].SourcePort != 0, err
	})
	if err != nil {
		return "", fmt.Errorf("%w; open are %v", err, open)
	}
	others := 0
	for _, from := range []string{"stranger", "neighbour", "client"} {
		n, err := l.send(from, netip.AddrPortFrom(HostV4, tunnelPort), [][]byte{make([]byte, 256), make([]byte, 1200)})
		if err != nil {
			return "", err
		}
		others += n
	}
	if others != 0 {
		return "", broken("others got %d answers", others)
	}
	return fmt.Sprintf("%q; controller saw %s, host opened %s; stranger, neighbour and client: 0 answers",
		banner, saw, open[0]), nil
}

func replayOpensNothing(ctx context.Context, l *Lab) (string, error) {
	tap, err := l.tap("nat")
	if err != nil {
		return "", err
	}
	defer tap.close()
	forward, _, err := l.sshBanner(ctx, "client")
	if err != nil {
		return "", err
	}
	if err := forward.Close(); err != nil {
		return "", err
	}
	payloads := tap.recorded(knockPort)
	if len(payloads) == 0 {
		return "", errors.New("the tap recorded no knock")
	}
	if err := l.endSessions(ctx); err != nil {
		return "", err
	}
	for _, from := range []string{"stranger", "neighbour"} {
		answers, err := l.send(from, netip.AddrPortFrom(ControllerV4, knockPort), payloads)
		if err != nil {
			return "", err
		}
		if answers != 0 {
			return "", broken("the replay from %s was answered %d times", from, answers)
		}
	}
	sessions, err := l.Sessions(ctx)
	if err != nil {
		return "", err
	}
	open, err := l.Pinholes(ctx)
	if err != nil {
		return "", err
	}
	if len(sessions) != 0 || len(open) != 0 {
		return "", broken("after the replay there are sessions %v and pinholes %v", sessions, open)
	}
	return fmt.Sprintf("%d recorded knocks sent from two places: 0 answers, 0 sessions, 0 pinholes", len(payloads)), nil
}

func controllerRestarts(ctx context.Context, l *Lab) (evidence string, err error) {
	tap, err := l.tap("nat")
	if err != nil {
		return "", err
	}
	defer tap.close()
	forward, err := l.Connect(ctx, "client", "hello")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, forward.Close()) }()
	knocks := tap.recorded(knockPort)
	if len(knocks) == 0 {
		return "", errors.New("the tap recorded no knock")
	}
	if err := l.controller.Kill(); err != nil {
		return "", err
	}
	if err := forward.hello(); err != nil {
		return "", fmt.Errorf("with the controller dead: %w", err)
	}
	begun := time.Now()
	if err := l.StartController(ctx); err != nil {
		return "", err
	}
	answers, err := l.send("stranger", netip.AddrPortFrom(ControllerV4, knockPort), knocks)
	if err == nil && answers != 0 {
		err = broken("the restarted controller answered %d old knocks", answers)
	}
	if err != nil {
		return "", err
	}
	err = Wait(ctx, 40*time.Second, "the agent to find the controller again", func() (bool, error) {
		return l.hostOnline(ctx, begun)
	})
	if err != nil {
		return "", err
	}
	back := time.Since(begun)
	sessions, err := l.Sessions(ctx)
	if err != nil {
		return "", err
	}
	if len(sessions) != 1 || sessions[0].Service != "hello" {
		return "", broken("the restarted controller has sessions %v, not the one that lives", sessions)
	}
	if err := forward.hello(); err != nil {
		return "", fmt.Errorf("after the restart: %w", err)
	}
	return fmt.Sprintf("kill -9; new connections through the live session before and after; %d old knocks: 0 answers; "+
		"agent and session back after %s", len(knocks), back.Round(10*time.Millisecond)), nil
}

func revocationCuts(ctx context.Context, l *Lab) (string, error) {
	took, err := l.RevokeUnderLoad(ctx)
	if err == nil && took > time.Second {
		err = broken("bytes came until %s after the revocation", took)
	}
	return fmt.Sprintf("last byte %s after the administrator's command was started", took.Round(time.Millisecond)), err
}

// RevokeUnderLoad starts a transfer, revokes its session in the middle, and
// returns how long after the start of the command the last byte came.
func (l *Lab) RevokeUnderLoad(ctx context.Context) (took time.Duration, err error) {
	forward, err := l.Connect(ctx, "client", "bulk")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, forward.Close()) }()
	conn, err := forward.Dial()
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if _, err := io.ReadFull(conn, make([]byte, 4<<20)); err != nil {
		return 0, fmt.Errorf("the transfer does not start: %w", err)
	}
	last := make(chan time.Time, 1)
	go func() { // ends when the connection is cut
		_, at := drain(conn, 2*time.Second)
		last <- at
	}()
	sessions, err := l.Sessions(ctx)
	if err != nil {
		return 0, err
	}
	if len(sessions) != 1 {
		return 0, broken("want one live session, have %v", sessions)
	}
	ordered := time.Now()
	if _, err := l.Admin(ctx, "session", "revoke", sessions[0].ID); err != nil {
		return 0, err
	}
	return (<-last).Sub(ordered), nil
}

func deadlineCloses(ctx context.Context, l *Lab) (evidence string, err error) {
	const length = 4 * time.Second
	start := time.Now()
	forward, err := l.Connect(ctx, "client", "bulk", "--for", length.String(), "--no-renew")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, forward.Kill()) }()
	conn, err := forward.Dial()
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if _, err := io.ReadFull(conn, make([]byte, 1<<20)); err != nil {
		return "", fmt.Errorf("the transfer does not start: %w", err)
	}
	if err := l.host.Kill(); err != nil {
		return "", err
	}
	open, err := l.Pinholes(ctx)
	if err != nil {
		return "", err
	}
	if len(open) == 0 {
		return "", broken("the pinhole went with the agent: a restart would cut live sessions")
	}
	err = Wait(ctx, 2*length, "the kernel to close the pinhole", func() (bool, error) {
		left, err := l.Pinholes(ctx)
		return len(left) == 0, err
	})
	closed := time.Since(start)
	if err != nil {
		return "", err
	}
	if closed > length+time.Second {
		return "", broken("the pinhole of %s closed after %s", length, closed)
	}
	scan, err := l.dark("client", netip.MustParseAddr("10.7.0.2"), HostV4)
	return fmt.Sprintf("agent killed with %s left; closed by the kernel %s after the knock for %s; then %s",
		open[0].TTL.Round(time.Millisecond), closed.Round(10*time.Millisecond), length, scan), err
}

func agentReturns(ctx context.Context, l *Lab) (string, error) {
	start := time.Now()
	if err := l.StartHost(ctx); err != nil {
		return "", err
	}
	online := time.Since(start)
	out, err := l.SSH(ctx, "client", "echo back")
	if err == nil && strings.TrimSpace(out) != "back" {
		err = broken("ssh printed %q", out)
	}
	return fmt.Sprintf("online again after %s, ssh works", online.Round(time.Millisecond)), err
}
