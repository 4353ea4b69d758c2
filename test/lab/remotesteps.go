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
// removal; each leaves it as the next one needs it. All along, others probe.
func (r *Remote) Steps() []Step {
	step := func(name string, run func(context.Context) (string, error)) Step {
		return Step{name, func(ctx context.Context, _ *Lab) (string, error) {
			evidence, err := run(ctx)
			seen, fault := r.others.sees(0)
			return strings.Trim(evidence+"\n"+seen, "\n"), errors.Join(err, fault)
		}}
	}
	return []Step{
		step("before Postern, all services answer, the container's too", r.before),
		step("the package installed, the host enrolled: nothing changes yet", r.install),
		step("a dry run says what would happen, and changes nothing", r.dryRun),
		step("nobody confirms: the trial ends by itself, the agent killed", r.trialReverts),
		step("protected: dark at once, the administrator's login lives", r.protect),
		step("who shows no way in is not taken for a confirmation, who came through the tunnel is", r.confirm),
		step("the container's port opens to one client, directly", r.direct),
		step("the agent killed: nothing opens, the kernel ends what was open", r.agentKilled),
		step("other firewalls reloaded and flushed: still dark", r.othersReloaded),
		step("all rules flushed by an administrator: dark again at once", r.allFlushed),
		step("a reboot: dark before the network is up, then served again", r.reboots),
		step("unprotected: what was there before works, nothing of ours is left", r.unprotect),
		step("protected again, the package purged over a tunnel: the same, no file is left", r.purge),
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
	r.others.open("not yet protected")
	return "", nil
}

// install is the administrator's, over ssh: the package, one setting, the enrolment.
func (r *Remote) install(ctx context.Context) (string, error) {
	token, err := r.token(ctx, "--role", "host", "--name", "host1")
	if err != nil {
		return "", err
	}
	var said []string
	for _, line := range []string{
		"dpkg -i " + r.Package,
		fmt.Sprintf(`sed -i 's/^backend = .*/backend = "%s"/' /etc/postern/host.toml && postern-host serve --check`, r.Backend),
		fmt.Sprintf("echo %s | postern-host enroll -", token),
	} {
		out, err := r.admin.Run(ctx, line)
		if err != nil {
			return out, err
		}
		said = append(said, tail(out, 1))
	}
	if err := r.startAgent(ctx); err != nil {
		return "", err
	}
	if err := r.configure(ctx); err != nil {
		return "", err
	}
	return strings.Join(said, "\n"), r.unchanged(ctx)
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
	r.others.open("a dry run")
	out, err := r.admin.Run(ctx, "postern-host protect --dry-run")
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
	r.others.open("protect is at work")
	begun := time.Now()
	if _, err := r.admin.Run(ctx, "postern-host protect --yes --revert-after "+trial.String()); err != nil {
		return "", err
	}
	installed := time.Now()
	r.others.dark("on trial")
	if err := r.host.Kill(); err != nil {
		return "", err
	}
	if !r.admin.Alive(ctx, 3*time.Second) {
		return "", broken("the administrator's login is gone")
	}
	if _, err := r.others.sees(time.Until(installed.Add(trial * 6 / 10))); err != nil {
		return "", err
	}
	r.others.open("the trial ends")
	if err := r.answering(ctx, 2*trial); err != nil {
		return "", err
	}
	over := time.Since(begun)
	for _, w := range r.others { // sets of iptables count whole seconds
		if first := w.Now().First.Sub(begun); first < trial-time.Second {
			return "", broken("%s was answered %s after the start of a trial of %s", w.From, first, trial)
		}
	}
	if !r.admin.Alive(ctx, 3*time.Second) {
		return "", broken("the administrator's login is gone after the trial")
	}
	r.others.open("not protected")
	if err := r.startAgent(ctx); err != nil {
		return "", err
	}
	return fmt.Sprintf("open again %s after the command", over.Round(100*time.Millisecond)),
		Wait(ctx, 20*time.Second, "the agent to remove the rules of the trial", func() (bool, error) {
			err := r.unchanged(ctx)
			return err == nil, err
		})
}

func (r *Remote) protect(ctx context.Context) (string, error) {
	r.others.open("protect is at work")
	out, err := r.admin.Run(ctx, "postern-host protect --yes --revert-after 5m")
	if err != nil {
		return "", err
	}
	r.others.dark("protected, not confirmed")
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
	_, err = r.others.sees(time.Second)
	return out, err
}

func (r *Remote) confirm(ctx context.Context) (string, error) {
	if out, err := r.admin.Run(ctx, "postern-host confirm"); err == nil {
		return "", broken("the login that ran protect confirmed: %s", out)
	}
	if err := r.unsure(ctx); err != nil {
		return "", err
	}
	through, err := r.LoginThroughPostern(ctx, "client")
	if err != nil {
		return "", fmt.Errorf("knock in: %w", err)
	}
	defer through.Close()
	out, err := through.Run(ctx, "postern-host confirm")
	if err != nil {
		return "", err
	}
	r.others.dark("confirmed")
	if !through.Alive(ctx, 3*time.Second) {
		return "", broken("the login through the tunnel is gone")
	}
	if r.admin.Alive(ctx, 2*time.Second) {
		return "", broken("the administrator's plain login lives on after the confirmation")
	}
	if _, err := r.Run(ctx, "admin", "ssh", r.plainSSH(HostV4, "true")...); err == nil {
		return "", broken("plain ssh still gets in from the administrator's address")
	}
	return out, nil
}

// unsure confirms from a second plain login, by the address that the trial keeps open.
func (r *Remote) unsure(ctx context.Context) error {
	second, err := r.Login(ctx, "admin", HostV4)
	if err != nil {
		return err
	}
	out, err := second.Run(ctx, "postern-host confirm")
	if err == nil || !strings.Contains(out, AdminV4.String()+", which only the trial lets in") {
		return errors.Join(broken("a second plain login confirmed, or heard nothing of why it may not: %s", out), second.Close())
	}
	return second.Close()
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
	r.others.shared("the container's port is the client's", webOfContainer)
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
	last := drained(conn)
	ordered := time.Now()
	if err := r.endServiceSessions(ctx, "web"); err != nil {
		return "", err
	}
	r.others.dark("taken back")
	took := (<-last).Sub(ordered)
	if took > time.Second {
		return "", broken("bytes came until %s after the revocation", took)
	}
	return fmt.Sprintf("revoked in mid-transfer: last byte %s after the command was started",
		took.Round(time.Millisecond)), nil
}

// webOfContainer is what a pinhole for an address lets everybody see who has that
// address: the client's neighbour, behind the same NAT.
const webOfContainer = "tcp/8080"

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
	r.others.shared("the container's port is the client's, the agent is killed", webOfContainer)
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
	for _, w := range r.others {
		if p := w.Now(); p.Last.Sub(begun) > length+time.Second {
			return "", broken("%s was answered %s after the knock for %s: %s", w.From, p.Last.Sub(begun), length, p)
		}
	}
	r.others.dark("the agent is dead, then starts")
	if err := r.startAgent(ctx); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s granted: the kernel ended the flow after %s", length, took.Round(10*time.Millisecond)),
		r.served(ctx)
}

// served waits until ssh works through the tunnel. What lets the tunnel through another
// firewall may be gone for a while; the agent puts it back when it next looks.
func (r *Remote) served(ctx context.Context) error {
	return Wait(ctx, 20*time.Second, "ssh to work", func() (bool, error) {
		out, err := r.SSH(ctx, "client", "echo in")
		return strings.TrimSpace(out) == "in", err
	})
}

func (r *Remote) othersReloaded(ctx context.Context) (string, error) {
	r.others.dark("others are reloaded and flushed")
	for _, line := range []string{
		"ufw reload",
		"for c in iptables ip6tables; do $c -P INPUT ACCEPT; $c -P FORWARD ACCEPT; $c -F; done",
	} {
		if err := r.shell(ctx, line); err != nil {
			return "", err
		}
	}
	return "", r.served(ctx)
}

// allFlushed is what "nft flush ruleset" does at the head of many an administrator's
// script: Postern's rules go too, and only the agent can bring them back.
func (r *Remote) allFlushed(ctx context.Context) (string, error) {
	const bound = time.Second
	r.others.open("all rules are flushed")
	begun := time.Now()
	if err := r.shell(ctx, "nft flush ruleset"); err != nil {
		return "", err
	}
	err := Wait(ctx, 30*time.Second, "the agent to bring its rules back", func() (bool, error) {
		_, err := r.Pinholes(ctx)
		return err == nil, err
	})
	if err != nil {
		return "", err
	}
	var open time.Duration
	for _, p := range r.others.dark("the rules are back") {
		if p.Answers > 0 {
			open = max(open, p.Last.Sub(begun))
		}
	}
	evidence := fmt.Sprintf("open until %s after the command was started", open.Round(time.Millisecond))
	if open == 0 {
		evidence = fmt.Sprintf("no probe met it open; they are %s apart", beat)
	}
	if open > bound {
		return evidence, broken("the host was open for %s, want at most %s", open.Round(time.Millisecond), bound)
	}
	return evidence, r.served(ctx)
}

func (r *Remote) reboots(ctx context.Context) (string, error) {
	r.others.dark("reboot")
	if err := r.reboot(ctx); err != nil {
		return "", err
	}
	return "", r.served(ctx)
}

func (r *Remote) unprotect(ctx context.Context) (string, error) {
	through, err := r.LoginThroughPostern(ctx, "client")
	if err != nil {
		return "", err
	}
	defer through.Close()
	r.others.open("unprotect is at work")
	out, err := through.Run(ctx, "postern-host unprotect --yes")
	if err != nil {
		return "", err
	}
	return out, r.openAgain(ctx)
}

// openAgain checks that the server is what it was before Postern.
func (r *Remote) openAgain(ctx context.Context) error {
	r.others.open("not protected any more")
	if err := r.answering(ctx, 5*time.Second); err != nil {
		return err
	}
	login, err := r.Login(ctx, "admin", HostV4)
	if err != nil {
		return fmt.Errorf("plain ssh: %w", err)
	}
	return errors.Join(login.Close(), r.unchanged(ctx))
}

// purge removes the package over a login that ends when the agent does.
func (r *Remote) purge(ctx context.Context) (string, error) {
	r.others.open("protect is at work")
	if err := r.shell(ctx, "postern-host protect --now --yes"); err != nil { // at the console
		return "", err
	}
	r.others.dark("protected at once")
	if err := r.served(ctx); err != nil {
		return "", err
	}
	login, err := r.LoginThroughPostern(ctx, "client")
	if err != nil {
		return "", err
	}
	defer login.Close()
	if err := r.stopsAgent(ctx); err != nil {
		return "", err
	}
	r.others.open("the package is purged")
	if out, err := login.Run(ctx, "dpkg -P postern-host"); err == nil {
		return out, errors.New("the login through the tunnel outlives the agent")
	}
	if err := r.openAgain(ctx); err != nil {
		return "", err
	}
	plain, err := r.Login(ctx, "admin", HostV4)
	if err != nil {
		return "", err
	}
	defer plain.Close()
	err = Wait(ctx, 20*time.Second, "dpkg to do what the end of the login left", func() (bool, error) {
		_, err := plain.Run(ctx, "dpkg -P postern-host") // the first one may still have its lock
		return err == nil, err
	})
	if err != nil {
		return "", err
	}
	left, err := r.Run(ctx, "host", "sh", "-c", "ls -d /usr/bin/postern-host /etc/postern /var/lib/postern-host 2>/dev/null || true")
	if err == nil && left != "" {
		err = broken("left behind:\n%s", left)
	}
	return "the login went with the agent, after the rules", errors.Join(err, r.unchanged(ctx))
}

// stopsAgent puts a systemctl in place that stops the agent, as systemd's does, and
// else does nothing.
func (r *Remote) stopsAgent(ctx context.Context) error {
	return r.shell(ctx, fmt.Sprintf(`mkdir -p /run/systemd/system; rm /usr/bin/systemctl
cat >/usr/bin/systemctl <<'END'
#!/bin/sh
[ "$1" = stop ] || exit 0
kill %[1]d; while kill -0 %[1]d 2>/dev/null; do sleep 0.05; done
END
chmod 755 /usr/bin/systemctl`, r.host.cmd.Process.Pid))
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
