package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"
)

// clientCommand is a `postern` command with that machine's own identity.
func (l *Lab) clientCommand(ctx context.Context, who string, args ...string) *exec.Cmd {
	cmd := l.command(ctx, "postern", args...)
	cmd.Env = append(cmd.Env, "XDG_CONFIG_HOME="+l.ConfigHome(who))
	return cmd
}

// postern runs a client's command to its end.
func (l *Lab) postern(ctx context.Context, who string, in io.Reader, args ...string) (string, error) {
	return l.runCommand(l.clientCommand(ctx, who, args...), in, who)
}

// SSH runs one command on the host's real sshd, through `postern connect --stdio`.
func (l *Lab) SSH(ctx context.Context, who string, command ...string) (string, error) {
	return l.Run(ctx, who, "ssh", l.sshArgs(who, command...)...)
}

// Forward is a running command of the client's that listens on a local address.
type Forward struct {
	lab     *Lab
	who     string
	cmd     *exec.Cmd
	Address string   // of the local listener
	conn    net.Conn // a connection that ends with the forward, or nil
	done    chan error

	mu   sync.Mutex // guards said
	said []string   // its lines since it showed its address, at most 1000
}

// Said returns what the command has said since the last call.
func (f *Forward) Said() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	said := f.said
	f.said = nil
	return said
}

// Signal sends the command a signal, such as SIGSTOP.
func (f *Forward) Signal(s syscall.Signal) error { return f.cmd.Process.Signal(s) }

var addressPattern = regexp.MustCompile(`127\.0\.0\.1:[0-9]+`)

// Connect starts `postern connect` with a local listener and waits for its address.
func (l *Lab) Connect(ctx context.Context, who, service string, args ...string) (*Forward, error) {
	return l.Offer(ctx, who, append(append([]string{"connect", "--listen", "127.0.0.1:0"}, args...), service)...)
}

// Offer starts a `postern` command that prints the address of its local listener,
// and waits for that.
func (l *Lab) Offer(ctx context.Context, who string, args ...string) (*Forward, error) {
	name := "postern " + strings.Join(args, " ")
	cmd := l.clientCommand(ctx, who, args...)
	out, talkIn := io.Pipe()
	cmd.Stdout, cmd.Stderr = talkIn, talkIn
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := l.in(who, cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s on %s: %w", name, who, err)
	}
	f := &Forward{lab: l, who: who, cmd: cmd, done: make(chan error, 1)}
	go func() { // ends with the process
		f.done <- cmd.Wait()
		talkIn.Close()
	}()
	address := make(chan string, 1)
	go func() { // ends with the process
		for lines, shown := bufio.NewScanner(out), false; lines.Scan(); {
			f.mu.Lock()
			if len(f.said) < 1000 {
				f.said = append(f.said, lines.Text())
			}
			f.mu.Unlock()
			if a := addressPattern.FindString(lines.Text()); a != "" && !shown {
				f.Address, shown = a, true
				address <- ""
			}
		}
		select {
		case address <- strings.Join(f.Said(), "\n"):
		default:
		}
	}()
	select {
	case said := <-address:
		if said == "" && f.Address != "" {
			f.Said() // the address is known
			return f, nil
		}
		return nil, fmt.Errorf("%s on %s ended: %s", name, who, said)
	case <-time.After(10 * time.Second):
		return nil, errors.Join(fmt.Errorf("%s on %s shows no address", name, who), f.Close())
	}
}

// Dial opens one connection through the forward.
func (f *Forward) Dial() (conn net.Conn, err error) {
	err = f.lab.in(f.who, func() error {
		conn, err = net.DialTimeout("tcp", f.Address, 5*time.Second)
		return err
	})
	return conn, err
}

// DialPacket is Dial for a UDP service.
func (f *Forward) DialPacket() (conn net.Conn, err error) {
	err = f.lab.in(f.who, func() error {
		conn, err = net.Dial("udp", f.Address)
		return err
	})
	return conn, err
}

// hello opens a connection to the service that greets, and reads the greeting.
func (f *Forward) hello() error {
	conn, err := f.Dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || line != "hello\n" {
		return fmt.Errorf("no greeting through the tunnel (%q): %w", line, err)
	}
	return nil
}

// Kill ends the client with SIGKILL: it closes nothing in order.
func (f *Forward) Kill() error { return f.end(syscall.SIGKILL) }

// Close ends the client with SIGINT, as Ctrl-C does.
func (f *Forward) Close() error { return f.end(syscall.SIGINT) }

func (f *Forward) end(signal syscall.Signal) error {
	if f.conn != nil {
		_ = f.conn.Close()
	}
	_ = f.cmd.Process.Signal(signal) // it may be gone
	select {
	case <-f.done:
		return nil
	case <-time.After(10 * time.Second):
		return errors.Join(fmt.Errorf("%s does not end", strings.Join(f.cmd.Args, " ")), f.cmd.Process.Kill())
	}
}
