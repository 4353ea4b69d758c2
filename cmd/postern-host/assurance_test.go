package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/host"
	"github.com/postern-sdp/postern/host/protect"
	"github.com/postern-sdp/postern/internal/control"
)

func TestOnlyALoginThatShowsAWayInConfirmsWithoutBeingAsked(t *testing.T) {
	login := func(source string) protect.Login {
		return protect.Login{Source: netip.MustParseAddrPort(source), Name: source}
	}
	keep := func(source string, ttl time.Duration, name string, ports ...uint16) []firewall.Keep {
		k := firewall.Keep{Source: netip.MustParsePrefix(source), TTL: ttl, Interface: name}
		for _, p := range ports {
			k.Ports = append(k.Ports, firewall.Port{Protocol: firewall.TCP, Number: p})
		}
		return []firewall.Keep{k}
	}
	agent := func(up bool, sessions ...host.SessionStatus) host.Status {
		return host.Status{Link: host.LinkStatus{Connected: up, Error: "no answer"}, Sessions: sessions}
	}
	tunnel := host.SessionStatus{Target: "127.0.0.1:22", Tunnels: 1, Access: control.Access{Mode: control.ModeTunnel}}
	unused, web := tunnel, tunnel
	unused.Tunnels, web.Target = 0, "127.0.0.1:80"
	direct := host.SessionStatus{Target: ":22", Source: "192.0.2.7:4711", Bound: true,
		Access: control.Access{Mode: control.ModeDirect}}
	other := direct
	other.Source = "192.0.2.8:4711"
	const plain, inside = "192.0.2.7:22", "127.0.0.1:22"
	for name, c := range map[string]struct {
		login protect.Login
		keeps []firewall.Keep
		agent host.Status
		fault error
		doubt string // none: sure
	}{
		"a console":                  {protect.Login{Console: true}, nil, agent(false), host.ErrNotRunning, ""},
		"nobody knows how":           {protect.Login{}, nil, agent(true), nil, "nobody can tell how this login came"},
		"a tunnel":                   {login(inside), nil, agent(true, tunnel), nil, ""},
		"a direct session":           {login(plain), nil, agent(true, other, direct), nil, ""},
		"a keep rule":                {login(plain), keep("192.0.2.0/24", 0, "", 22), agent(false), host.ErrNotRunning, ""},
		"the kept address":           {login(plain), nil, agent(true), nil, "192.0.2.7, which only the trial lets in"},
		"while somebody else is in":  {login(plain), nil, agent(true, tunnel, other), nil, "only the trial lets in"},
		"a keep rule that ends":      {login(plain), keep("192.0.2.0/24", time.Hour, ""), agent(true), nil, "only the trial"},
		"a keep rule's interface":    {login(plain), keep("192.0.2.0/24", 0, "eth1"), agent(true), nil, "only the trial"},
		"a keep rule for another":    {login(plain), keep("192.0.2.0/24", 0, "", 80), agent(true), nil, "only the trial"},
		"the link is down":           {login(inside), nil, agent(false, tunnel), nil, "no controller now, so that nobody new can be let in: no answer"},
		"kept, and the link is down": {login(plain), nil, agent(false), nil, "nobody has shown that the way through Postern works; and the agent has no controller"},
		"no agent":                   {login(plain), nil, host.Status{}, host.ErrNotRunning, "no agent runs here"},
		"a silent agent":             {login(plain), nil, host.Status{}, errors.New("timeout"), "does not say how it is (timeout)"},
		"from itself":                {login(inside), nil, agent(true, unused, web), nil, "from this machine itself"},
	} {
		got := assurance{c.login, c.keeps, c.agent, c.fault}.doubt()
		if (c.doubt == "") != (got == "") || !strings.Contains(got, c.doubt) {
			t.Errorf("%s: %q, want %q", name, got, c.doubt)
		}
	}
}

// TestASecondLoginFromTheKeptAddressIsToldWhatIsToFear, and confirms if it will.
func TestASecondLoginFromTheKeptAddressIsToldWhatIsToFear(t *testing.T) {
	s := newService(t)
	s.asRoot("unprotect")
	from := func(login, answer string, args ...string) (string, error) {
		t.Helper()
		args = append(args, "--config", s.config)
		cmd := exec.Command(s.me, args...)
		if answer != "" {
			cmd = exec.Command("script", "-qec", s.me+" "+strings.Join(args, " "), "/dev/null")
			cmd.Stdin = strings.NewReader(answer + "\n")
		}
		cmd.Env = append(os.Environ(), asProgram+"=1", "SSH_CONNECTION="+login)
		var out []byte
		var err error
		s.ns.Do(t, func() { out, err = cmd.CombinedOutput() })
		return string(out), err
	}
	const first, second = "192.0.2.7 50000 198.51.100.1 22", "192.0.2.7 50001 198.51.100.1 22"
	state := func() string {
		t.Helper()
		r, clock, err := protect.Store{Folder: s.state}.Read()
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%s, %d kept", r.At(clock), len(r.Admins))
	}
	if out, err := from(first, "", "protect", "--yes"); err != nil || state() != "trial, 1 kept" {
		t.Fatalf("%v, %s\n%s", err, state(), out)
	}
	for name, c := range map[string]struct{ login, answer, says string }{
		"the same login":     {first, "y", "the login that began the trial"},
		"nobody to be asked": {second, "", "192.0.2.7, which only the trial lets in"},
		"who says no":        {second, "n", "no agent runs here"},
	} {
		out, err := from(c.login, c.answer, "confirm")
		if err == nil || !strings.Contains(out, c.says) || state() != "trial, 1 kept" {
			t.Errorf("%s: %v, %s\n%s", name, err, state(), out)
		}
	}
	if out, err := from(second, "", "confirm"); err == nil || !strings.Contains(out, "--keep-admin") {
		t.Errorf("it does not say what to do: %v\n%s", err, out)
	}
	if out, err := from(second, "y", "confirm", "--keep-admin", "1h"); err != nil || !strings.Contains(out, "in 1h") ||
		state() != "on, 1 kept" {
		t.Errorf("who says yes: %v, %s\n%s", err, state(), out)
	}
	s.asRoot("unprotect")
	if out, err := from(first, "", "protect", "--yes"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := from(second, "", "confirm", "--force"); err != nil || state() != "on, 0 kept" {
		t.Errorf("by force: %v, %s\n%s", err, state(), out)
	}
	s.configure("[[keep]]\nsource = \"192.0.2.0/24\"\n")
	s.asRoot("unprotect")
	if out, err := from(first, "", "protect", "--yes"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := from(second, "", "confirm"); err != nil || state() != "on, 0 kept" {
		t.Errorf("with a keep rule: %v, %s\n%s", err, state(), out)
	}
	s.ns.Run(t, "nft", "list", "table", "inet", host.DefaultTable)
}

func TestNothingIsNoTerminal(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if isTerminal(null) || isTerminal(strings.NewReader("y\n")) {
		t.Error("nobody is asked, and a terminal is seen")
	}
}
