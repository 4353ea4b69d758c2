package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Steps are the life of the server with Postern, from the installation to the
// removal; each leaves it as the next one needs it. All along, the watches probe.
func (r *Remote) Steps() []Step {
	step := func(name string, run func(context.Context) (string, error)) Step {
		return Step{name, func(ctx context.Context, _ *Lab) (string, error) { return run(ctx) }}
	}
	return []Step{
		step("before Postern, ssh, the web server and the container's port answer", r.before),
		step("enrolled and running, the agent changes nothing", r.install),
		step("a dry run says what would happen, and changes nothing", r.dryRun),
		step("nobody confirms: the trial ends by itself, the agent killed", r.trialReverts),
		step("protected: dark at once, the administrator's login lives", r.protect),
		step("the same login cannot confirm, one through the tunnel can", r.confirm),
		step("the container's port opens to one client, directly", r.direct),
		step("the agent killed: nothing opens, the kernel ends what was open", r.agentKilled),
		step("other firewalls reloaded and flushed: still dark", r.othersReloaded),
		step("a reboot: dark before the network is up, then served again", r.reboots),
		step("unprotected: what was there before works, nothing of ours is left", r.unprotect),
	}
}

func (r *Remote) before(ctx context.Context) (string, error) {
	var err error
	if r.rules, err = r.ruleset(ctx); err != nil {
		return "", err
	}
	if r.admin, err = r.Login(ctx, "admin", HostV4); err != nil {
		return "", err
	}
	if err := r.answering(ctx, 5*time.Second); err != nil {
		return "", err
	}
	return phases(r.mark("not yet protected")), nil
}

func (r *Remote) install(ctx context.Context) (string, error) {
	token, err := r.token(ctx, "--role", "host", "--name", "host1")
	if err != nil {
		return "", err
	}
	out, err := r.admin.Run(ctx, fmt.Sprintf("echo %s | %s", token, r.agent("enroll", "-")))
	if err != nil {
		return "", err
	}
	if err := r.StartHost(ctx); err != nil {
		return "", err
	}
	if err := r.configure(ctx); err != nil {
		return "", err
	}
	return out, r.unchanged(ctx)
}

// unchanged checks that the firewalls are as they were before Postern.
func (r *Remote) unchanged(ctx context.Context) error {
	now, err := r.ruleset(ctx)
	if err == nil && now != r.rules {
		err = broken("the firewalls are not what they were (-), but (+):\n%s", difference(r.rules, now))
	}
	return err
}

func (r *Remote) dryRun(ctx context.Context) (string, error) {
	out, err := r.admin.Run(ctx, r.agent("protect", "--dry-run"))
	if err != nil {
		return "", err
	}
	for _, want := range []string{AdminV4.String(), "22"} {
		if !strings.Contains(out, want) {
			return "", broken("the dry run does not speak of %s:\n%s", want, out)
		}
	}
	return out, errors.Join(r.unchanged(ctx), r.answering(ctx, 5*time.Second))
}

func (r *Remote) trialReverts(ctx context.Context) (string, error) {
	const trial = 5 * time.Second
	r.mark("protect is at work")
	begun := time.Now()
	if _, err := r.admin.Run(ctx, r.agent("protect", "--yes", "--revert-after", trial.String())); err != nil {
		return "", err
	}
	installed := time.Now()
	r.mark("on trial")
	if err := r.host.Kill(); err != nil {
		return "", err
	}
	dark, err := r.quiet(time.Until(installed.Add(trial * 6 / 10)))
	if err != nil {
		return "", err
	}
	if !r.admin.Alive(ctx, 3*time.Second) {
		return "", broken("the administrator's login is gone")
	}
	r.mark("the trial ends")
	if err := r.answering(ctx, 2*trial); err != nil {
		return "", err
	}
	over := time.Since(begun)
	if !r.admin.Alive(ctx, 3*time.Second) {
		return "", broken("the administrator's login is gone after the trial")
	}
	r.mark("not protected")
	if err := r.StartHost(ctx); err != nil {
		return "", err
	}
	err = Wait(ctx, 20*time.Second, "the agent to remove the rules of the trial", func() (bool, error) {
		err := r.unchanged(ctx)
		return err == nil, err
	})
	return fmt.Sprintf("%s; open again %s after the command", dark, over.Round(100*time.Millisecond)), err
}

func (r *Remote) protect(ctx context.Context) (string, error) {
	r.mark("protect is at work")
	out, err := r.admin.Run(ctx, r.agent("protect", "--yes", "--revert-after", "5m"))
	if err != nil {
		return "", err
	}
	r.mark("dark")
	if !r.admin.Alive(ctx, 3*time.Second) {
		return "", broken("the administrator's login is gone")
	}
	second, err := r.Login(ctx, "admin", HostV4)
	if err != nil {
		return "", fmt.Errorf("a second login from the administrator's address: %w", err)
	}
	if err := second.Close(); err != nil {
		return "", err
	}
	seen, err := r.quiet(time.Second)
	return out + "\n" + seen, err
}

func (r *Remote) confirm(ctx context.Context) (string, error) {
	if out, err := r.admin.Run(ctx, r.agent("confirm")); err == nil {
		return "", broken("the login that ran protect confirmed: %s", out)
	}
	through, err := r.LoginThroughPostern(ctx, "client")
	if err != nil {
		return "", fmt.Errorf("knock in: %w", err)
	}
	defer through.Close()
	out, err := through.Run(ctx, r.agent("confirm"))
	if err != nil {
		return "", err
	}
	if !through.Alive(ctx, 3*time.Second) {
		return "", broken("the login through the tunnel is gone")
	}
	if r.admin.Alive(ctx, 2*time.Second) {
		return "", broken("the administrator's plain login lives on after the confirmation")
	}
	if _, err := r.Run(ctx, "admin", "ssh", r.plainSSH(HostV4, "true")...); err == nil {
		return "", broken("plain ssh still gets in from the administrator's address")
	}
	seen, err := r.quiet(0)
	return out + "\n" + seen, err
}

// direct opens the container's published port to the client for a while, and
// reads from it without any tunnel.
func (r *Remote) direct(ctx context.Context) (string, error) {
	for _, args := range [][]string{
		{"service", "add", "--host", "host1", "--mode", "direct", "--target", fmt.Sprintf(":%d", publishedPort), "web"},
		{"grant", "add", "--for", "1h", "alice", "web"},
	} {
		if _, err := r.Admin(ctx, args...); err != nil {
			return "", err
		}
	}
	forward, err := r.Connect(ctx, "client", "web")
	if err != nil {
		return "", err
	}
	defer forward.Kill()
	conn, err := forward.Dial()
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if _, err := io.ReadFull(conn, make([]byte, 1<<20)); err != nil {
		return "", fmt.Errorf("read from the container through postern connect: %w", err)
	}
	last := make(chan time.Time, 1)
	go func() { // ends when the connection is cut
		_, at := drain(conn, 2*time.Second)
		last <- at
	}()
	ordered := time.Now()
	if err := r.endServiceSessions(ctx, "web"); err != nil {
		return "", err
	}
	took := (<-last).Sub(ordered)
	if took > time.Second {
		return "", broken("bytes came until %s after the revocation", took)
	}
	seen, err := r.strangerQuiet()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("revoked in mid-transfer: last byte %s after the command was started; %s",
		took.Round(time.Millisecond), seen), nil
}

// dialDirect knocks for the container's port and reads the first bytes from it.
func (r *Remote) dialDirect(ctx context.Context, length string) (conn net.Conn, err error) {
	if _, err := r.postern(ctx, "client", nil, "knock", "--for", length, "web"); err != nil {
		return nil, err
	}
	err = r.in("client", func() error {
		d := net.Dialer{Timeout: 5 * time.Second}
		conn, err = d.DialContext(ctx, "tcp4", netip.AddrPortFrom(HostV4, publishedPort).String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("connect to the opened port: %w", err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 1<<20)); err != nil {
		conn.Close()
		return nil, fmt.Errorf("read from the container: %w", err)
	}
	return conn, nil
}

func (r *Remote) endServiceSessions(ctx context.Context, service string) error {
	sessions, err := r.Sessions(ctx)
	if err != nil {
		return err
	}
	for _, s := range sessions {
		if s.Service != service {
			continue
		}
		if _, err := r.Admin(ctx, "session", "revoke", s.ID); err != nil {
			return err
		}
	}
	return nil
}

func (r *Remote) agentKilled(ctx context.Context) (string, error) {
	const length = 4 * time.Second
	begun := time.Now()
	conn, err := r.dialDirect(ctx, length.String())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := r.host.Kill(); err != nil {
		return "", err
	}
	n, last := drain(conn, 2*length)
	took := last.Sub(begun)
	switch {
	case n == 0 || took < length/2:
		return "", broken("the flow ended %s after the knock, with the agent", took)
	case took > length+time.Second:
		return "", broken("the flow lived %s, granted were %s", took, length)
	}
	seen, err := r.strangerQuiet()
	if err != nil {
		return "", err
	}
	if err := r.StartHost(ctx); err != nil {
		return "", err
	}
	out, err := r.SSH(ctx, "client", "echo back")
	if err == nil && strings.TrimSpace(out) != "back" {
		err = broken("ssh printed %q", out)
	}
	return fmt.Sprintf("%s granted: the kernel ended the flow after %s; %s", length,
		took.Round(10*time.Millisecond), seen), err
}

// strangerQuiet is quiet for the stranger alone: behind the client's NAT, an
// address is shared.
func (r *Remote) strangerQuiet() (string, error) {
	for _, w := range r.watches {
		if p := w.Now(); w.From == "stranger" {
			if p.Answers > 0 || p.Probes == 0 {
				return "", broken("the stranger: %s; the first: %s", p, p.Wrong)
			}
			return "the stranger: " + p.String(), nil
		}
	}
	return "", broken("there is no stranger")
}

func (r *Remote) othersReloaded(ctx context.Context) (string, error) {
	r.mark("others are reloaded")
	if err := r.ufw(ctx, "ufw reload"); err != nil {
		return "", err
	}
	if _, err := r.Run(ctx, "host", "sh", "-c", "iptables -P INPUT ACCEPT; iptables -P FORWARD ACCEPT; iptables -F"); err != nil {
		return "", err
	}
	seen, err := r.quiet(500 * time.Millisecond)
	if err != nil {
		return "", err
	}
	// What lets the tunnel through another firewall may have gone with it; the agent
	// puts it back when it next looks.
	err = Wait(ctx, 20*time.Second, "ssh to work again", func() (bool, error) {
		out, err := r.SSH(ctx, "client", "echo in")
		return strings.TrimSpace(out) == "in", err
	})
	return seen, err
}

func (r *Remote) reboots(ctx context.Context) (string, error) {
	r.mark("reboot")
	if err := r.reboot(ctx); err != nil {
		return "", err
	}
	seen, err := r.quiet(500 * time.Millisecond)
	if err != nil {
		return "", err
	}
	// What lets the tunnel through another firewall may have gone with it; the agent
	// puts it back when it next looks.
	err = Wait(ctx, 20*time.Second, "ssh to work again", func() (bool, error) {
		out, err := r.SSH(ctx, "client", "echo in")
		return strings.TrimSpace(out) == "in", err
	})
	return seen, err
}

func (r *Remote) unprotect(ctx context.Context) (string, error) {
	through, err := r.LoginThroughPostern(ctx, "client")
	if err != nil {
		return "", err
	}
	defer through.Close()
	seen := phases(r.mark("unprotect is at work"))
	out, err := through.Run(ctx, r.agent("unprotect", "--yes"))
	if err != nil {
		return "", err
	}
	r.mark("not protected any more")
	if err := r.answering(ctx, 5*time.Second); err != nil {
		return "", err
	}
	login, err := r.Login(ctx, "admin", HostV4)
	if err != nil {
		return "", fmt.Errorf("plain ssh after unprotect: %w", err)
	}
	if err := login.Close(); err != nil {
		return "", err
	}
	return out + "\n" + seen, r.unchanged(ctx)
}

func phases(all []Phase) string {
	var lines []string
	for _, p := range all {
		lines = append(lines, p.String())
	}
	return strings.Join(lines, "; ")
}

// difference lists the lines that only one of two texts has.
func difference(before, after string) string {
	count := make(map[string]int)
	for line := range strings.Lines(before) {
		count[line]--
	}
	for line := range strings.Lines(after) {
		count[line]++
	}
	var lines []string
	for line, n := range count {
		switch {
		case n < 0:
			lines = append(lines, "- "+line)
		case n > 0:
			lines = append(lines, "+ "+line)
		}
	}
	slices.Sort(lines)
	if len(lines) == 0 {
		return "the order of lines"
	}
	return strings.Join(lines, "")
}
