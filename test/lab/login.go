package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Login is an ssh login that lasts, with a shell behind it: what an administrator
// at work has open.
type Login struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines chan string // closed when ssh has ended
}

// marker ends the output of each command of a Login.
const marker = "--postern-lab-done--"

// PlainSSH are the arguments of an ssh that knows nothing of Postern.
func (l *Lab) plainSSH(target netip.Addr, command ...string) []string {
	dir := filepath.Join(l.Dir, "sshd")
	return append([]string{
		"-F", "none", "-i", filepath.Join(dir, "user_key"), "-o", "IdentitiesOnly=yes",
		"-o", "UserKnownHostsFile=" + filepath.Join(dir, "known_hosts"), "-o", "HostKeyAlias=ssh-lab",
		"-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes", "-o", "ConnectTimeout=3",
		"root@" + target.String(),
	}, command...)
}

// Login opens a plain ssh login on the host, from the machine called who.
func (l *Lab) Login(ctx context.Context, who string, target netip.Addr) (*Login, error) {
	return l.login(ctx, who, l.plainSSH(target, "sh"))
}

// LoginThroughPostern opens an ssh login through `postern connect --stdio`.
func (l *Lab) LoginThroughPostern(ctx context.Context, who string) (*Login, error) {
	return l.login(ctx, who, l.sshArgs(who, "sh"))
}

func (l *Lab) login(ctx context.Context, who string, args []string) (*Login, error) {
	cmd := l.command(context.Background(), "ssh", args...)
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, talk := io.Pipe()
	cmd.Stdout, cmd.Stderr = talk, talk
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := l.in(who, cmd.Start); err != nil {
		return nil, fmt.Errorf("start ssh on %s: %w", who, err)
	}
	login := &Login{cmd: cmd, in: in, lines: make(chan string, 1024)}
	go func() { // ends with the process
		_ = cmd.Wait()
		talk.Close()
	}()
	go func() { // ends with the process
		defer close(login.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			login.lines <- s.Text()
		}
	}()
	if _, err := login.Run(ctx, "true"); err != nil {
		return nil, errors.Join(fmt.Errorf("log in from %s: %w", who, err), login.Close())
	}
	return login, nil
}

// Run runs a line of shell and returns what it printed on both outputs. The error
// is that of the login, or carries the line's exit code.
func (s *Login) Run(ctx context.Context, line string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if _, err := fmt.Fprintf(s.in, "{ %s\n} 2>&1; code=$?; echo; echo %s $code\n", line, marker); err != nil {
		return "", fmt.Errorf("type into the login: %w", err)
	}
	var printed []string
	for {
		select {
		case text, ok := <-s.lines:
			if !ok {
				return "", fmt.Errorf("the login ended: %s", strings.Join(printed, "\n"))
			}
			if code, done := strings.CutPrefix(text, marker+" "); done {
				out := strings.TrimSpace(strings.Join(printed, "\n"))
				if code != "0" {
					return out, fmt.Errorf("%q ended with %s: %s", line, code, out)
				}
				return out, nil
			}
			printed = append(printed, text)
		case <-ctx.Done():
			return "", fmt.Errorf("the login is silent: %s: %w", strings.Join(printed, "\n"), context.Cause(ctx))
		}
	}
}

// Alive reports whether the login still answers within a while.
func (s *Login) Alive(ctx context.Context, within time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	out, err := s.Run(ctx, "echo alive")
	return err == nil && out == "alive"
}

// Close ends the login.
func (s *Login) Close() error {
	s.in.Close()
	_ = s.cmd.Process.Kill() // it may be gone
	for limit := time.After(10 * time.Second); ; {
		select {
		case _, ok := <-s.lines:
			if !ok {
				return nil
			}
		case <-limit:
			return errors.New("ssh does not end")
		}
	}
}
