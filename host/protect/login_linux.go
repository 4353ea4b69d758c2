package protect

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Login is how somebody got to this machine's shell.
type Login struct {
	// Source is the client's address and the local TCP port it came to. Zero: a
	// console, or something else than ssh.
	Source netip.AddrPort
	// Name tells one login from another.
	Name string
	// Console is a terminal of the machine's own, such as tty1 or ttyS0. Without it and a
	// source nobody knows how the login came.
	Console bool
}

// maxAncestors bounds the way up from a process to its login.
const maxAncestors = 64

// Present finds the ssh login that this process belongs to. The environment alone
// does not tell, as sudo clears it: the processes above are asked too, as far as
// their environment may be read.
func Present() Login {
	pid, console := os.Getpid(), false
	for range maxAncestors {
		if pid <= 1 {
			break
		}
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err == nil {
			if l, ok := parseLogin(variable(text, "SSH_CONNECTION")); ok {
				return l
			}
		}
		s := readStat(pid)
		console = console || isConsole(s.terminal)
		if pid = s.parent; pid == 0 {
			break
		}
	}
	return Login{Console: console}
}

// parseLogin reads "client port server port", as ssh(1) describes SSH_CONNECTION.
func parseLogin(text string) (Login, bool) {
	fields := strings.Fields(text)
	if len(fields) != 4 {
		return Login{}, false
	}
	client, err := netip.ParseAddr(fields[0])
	port, portErr := strconv.ParseUint(fields[3], 10, 16)
	if err != nil || portErr != nil || port == 0 {
		return Login{}, false
	}
	client = client.Unmap().WithZone("")
	return Login{Source: netip.AddrPortFrom(client, uint16(port)), Name: strings.Join(fields, " ")}, true
}

// Way is the login's own, if it came over the network from another machine.
func (l Login) Way() (Way, bool) {
	if !l.Source.IsValid() || l.Through() {
		return Way{}, false
	}
	a := l.Source.Addr()
	return Way{Source: netip.PrefixFrom(a, a.BitLen()), Port: l.Source.Port()}, true
}

// Through reports whether the login came through a tunnel: the agent dialled.
func (l Login) Through() bool { return l.Source.IsValid() && l.Source.Addr().IsLoopback() }

func variable(environ []byte, name string) string {
	for _, v := range bytes.Split(environ, []byte{0}) {
		if value, ok := bytes.CutPrefix(v, []byte(name+"=")); ok {
			return string(value)
		}
	}
	return ""
}

// stat is what there is to know of a process.
type stat struct {
	parent   int // 0: none, or nobody knows
	terminal int // that controls it, as the kernel numbers devices; 0: none
}

func readStat(pid int) stat {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}
	}
	return parseStat(text)
}

func parseStat(text []byte) stat {
	// The name, in brackets, may have brackets and blanks of its own (proc(5)).
	i := bytes.LastIndexByte(text, ')')
	fields := bytes.Fields(text[i+1:])
	if len(fields) < 5 {
		return stat{}
	}
	p, err1 := strconv.Atoi(string(fields[1]))
	t, err2 := strconv.Atoi(string(fields[4]))
	if err1 != nil || err2 != nil {
		return stat{}
	}
	return stat{p, t}
}

// Majors of the terminals that programs make: the kernel's Documentation/admin-guide/devices.txt.
const (
	majorOldPTY             = 3
	firstUnix98, lastUnix98 = 136, 143
)

// isConsole reports whether a terminal is the machine's own.
func isConsole(device int) bool {
	major := int(unix.Major(uint64(device)))
	return major != 0 && major != majorOldPTY && (major < firstUnix98 || major > lastUnix98)
}
