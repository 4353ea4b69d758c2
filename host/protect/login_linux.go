package protect

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// Login is how somebody got to this machine's shell.
type Login struct {
	// Source is the client's address and the local TCP port it came to. Zero: a
	// console, or something else than ssh.
	Source netip.AddrPort
	// Name tells one login from another.
	Name string
}

// maxAncestors bounds the way up from a process to its login.
const maxAncestors = 64

// Present finds the ssh login that this process belongs to. The environment alone
// does not tell, as sudo clears it: the processes above are asked too, as far as
// their environment may be read.
func Present() Login {
	pid := os.Getpid()
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
		if pid = parent(pid); pid == 0 {
			break
		}
	}
	return Login{}
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

func parent(pid int) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The name, in brackets, may have brackets and blanks of its own (proc(5)).
	i := bytes.LastIndexByte(text, ')')
	fields := bytes.Fields(text[i+1:])
	if len(fields) < 2 {
		return 0
	}
	n, err := strconv.Atoi(string(fields[1]))
	if err != nil {
		return 0
	}
	return n
}
