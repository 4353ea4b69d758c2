package lab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"strconv"
	"time"
)

// UpResident runs `postern up` for a number of services and returns how many bytes
// of memory it has when each of them has a tunnel. It needs a started system.
func (l *Lab) UpResident(ctx context.Context, services int) (resident int, err error) {
	for i := range services {
		name := fmt.Sprintf("hello-%d", i)
		target := fmt.Sprintf("127.0.0.1:%d", helloPort)
		for _, args := range [][]string{
			{"service", "add", "--host", "host1", "--target", target, name},
			{"grant", "add", "--for", "1h", "alice", name},
		} {
			if _, err := l.Admin(ctx, args...); err != nil {
				return 0, err
			}
		}
	}
	up, err := l.start("client", "postern-up", l.clientCommand(context.Background(), "client", "up"))
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, up.Stop()) }()
	line := regexp.MustCompile(`(?m)^hello-\d+ +\S+ +(\S+) +tcp/(\d+)`)
	var all [][]string
	err = Wait(ctx, 10*time.Second, "all services to be up", func() (bool, error) {
		all = line.FindAllStringSubmatch(up.Log(), -1)
		return len(all) == services, fmt.Errorf("%d are: %s", len(all), up.Log())
	})
	if err != nil {
		return 0, err
	}
	for _, at := range all {
		conn, err := l.greeted(net.JoinHostPort(at[1], at[2]))
		if err != nil {
			return 0, err
		}
		defer conn.Close()
	}
	return memoryOf(up.cmd.Process.Pid)
}

// greeted connects from the client to a service that greets, and reads the greeting.
func (l *Lab) greeted(address string) (conn net.Conn, err error) {
	err = l.in("client", func() error {
		conn, err = net.DialTimeout("tcp", address, 5*time.Second)
		return err
	})
	if err != nil {
		return nil, err
	}
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if line, err := bufio.NewReader(conn).ReadString('\n'); line != "hello\n" {
		conn.Close()
		return nil, fmt.Errorf("no greeting at %s (%q): %w", address, line, err)
	}
	return conn, nil
}

// memoryOf is how many bytes of memory a process has (VmRSS of proc(5)).
func memoryOf(pid int) (int, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	found := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(status)
	if found == nil {
		return 0, fmt.Errorf("no VmRSS in %s", status)
	}
	kilobytes, err := strconv.Atoi(string(found[1]))
	return kilobytes << 10, err
}
