package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Process is a running daemon.
type Process struct {
	name string
	cmd  *exec.Cmd
	log  string
	done chan struct{}
}

// Command returns a command that, once started through Run or Start, runs in
// the namespace. A program of ours is taken from Bin.
func (l *Lab) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	if strings.HasPrefix(program, "postern") {
		program = filepath.Join(l.Bin, program)
	} else if path, err := exec.LookPath(program); err == nil {
		program = path
	} else if _, err := os.Stat("/usr/sbin/" + program); err == nil {
		program = "/usr/sbin/" + program
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.WaitDelay = 2 * time.Second
	cmd.Env = append(os.Environ(), "HOME="+l.Dir, "XDG_CONFIG_HOME="+filepath.Join(l.Dir, "config"),
		"PATH="+l.Bin+":"+os.Getenv("PATH")+":/usr/sbin:/sbin",
		// A session shall end with the command that it was for, unless agents are
		// what it is about.
		"POSTERN_NO_AGENT=1", "XDG_RUNTIME_DIR="+l.Dir)
	return cmd
}

// Run runs a program in the namespace to its end and returns what it wrote to
// its standard output. The error carries what it wrote to standard error.
func (l *Lab) Run(ctx context.Context, where, program string, args ...string) (string, error) {
	return l.RunInput(ctx, nil, where, program, args...)
}

// RunInput is Run with a standard input.
func (l *Lab) RunInput(ctx context.Context, in io.Reader, where, program string, args ...string) (string, error) {
	return l.runCommand(l.commandAt(ctx, where, program, args...), in, where)
}

// commandAt is command in the file system of the machine, if it has one of its own.
func (l *Lab) commandAt(ctx context.Context, where, program string, args ...string) *exec.Cmd {
	if r := l.roots[where]; r != nil {
		return r.command(ctx, program, args...)
	}
	return l.command(ctx, program, args...)
}

func (l *Lab) runCommand(cmd *exec.Cmd, in io.Reader, where string) (string, error) {
	var out, talk bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, &out, &talk
	if err := l.in(where, cmd.Start); err != nil {
		return "", fmt.Errorf("start %s on %s: %w", cmd.Path, where, err)
	}
	if err := cmd.Wait(); err != nil {
		return out.String(), fmt.Errorf("%s on %s: %w: %s", strings.Join(cmd.Args, " "), where,
			err, strings.TrimSpace(talk.String()))
	}
	return out.String(), nil
}

// Start starts a daemon in the namespace, its output in a log in Dir.
func (l *Lab) Start(where, program string, args ...string) (*Process, error) {
	return l.start(where, program, l.commandAt(context.Background(), where, program, args...))
}

// start is Start for a command made by the caller; program names it and its log.
func (l *Lab) start(where, program string, cmd *exec.Cmd) (*Process, error) {
	log := filepath.Join(l.Dir, where+"-"+filepath.Base(program)+".log")
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make log of %s: %w", program, err)
	}
	defer f.Close()
	cmd.Stdout, cmd.Stderr = f, f
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if l.Attached {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	if err := l.in(where, cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s on %s: %w", program, where, err)
	}
	p := &Process{name: program, cmd: cmd, log: log, done: make(chan struct{})}
	go func() { // ends with the process, which Stop, Kill or Down end
		_ = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// startSeeing starts a daemon that finds the lab's folder called name at the path
// `at`, where one that gives up root can reach it: the lab's folder is root's alone.
func (l *Lab) startSeeing(where, name, at, program string, args ...string) (*Process, error) {
	return l.start(where, name, l.seeing(context.Background(), name, at, program, args...))
}

// seeing is a command in a view of the file system of its own.
func (l *Lab) seeing(ctx context.Context, name, at, program string, args ...string) *exec.Cmd {
	const view = `mount --bind "$1" "$2"; mount -t tmpfs tmpfs /dev/shm; shift 2; exec "$@"`
	return l.command(ctx, "unshare", append([]string{
		"--mount", "--ipc", "sh", "-ec", view, "sh", l.path(name), at, program,
	}, args...)...)
}

// Kill ends the process with SIGKILL and waits until it is gone.
func (p *Process) Kill() error { return p.end(syscall.SIGKILL) }

// Stop ends the process with SIGTERM and waits until it is gone.
func (p *Process) Stop() error { return p.end(syscall.SIGTERM) }

func (p *Process) end(sig syscall.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end %s: %w", p.name, err)
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(10 * time.Second):
		return fmt.Errorf("%s did not end within 10 s of %s", p.name, sig)
	}
}

// Running reports whether the process is still there.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Log returns the last lines of what the process wrote.
func (p *Process) Log() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return tail(string(b), 20)
}

func tail(s string, lines int) string {
	all := strings.Split(strings.TrimSpace(s), "\n")
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	return strings.Join(all, "\n")
}

// Wait polls until ok says true, an error ends it, or the time is up.
func Wait(ctx context.Context, limit time.Duration, what string, ok func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		over := ctx.Err() != nil // before the look: a machine that stood still looks once more
		done, err := ok()
		if done {
			return nil
		}
		if over {
			return errors.Join(fmt.Errorf("waited %s for %s in vain", limit, what), err)
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// Logs returns the ends of all daemons' logs.
func (l *Lab) Logs() string {
	var all []string
	for _, p := range []*Process{l.controller, l.host, l.sshd} {
		if p != nil {
			all = append(all, "== "+p.name, p.Log())
		}
	}
	return strings.Join(all, "\n")
}
