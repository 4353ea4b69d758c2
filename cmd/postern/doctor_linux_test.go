package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/postern-sdp/postern/internal/control/controltest"
	"github.com/postern-sdp/postern/internal/testkit"
	"github.com/postern-sdp/postern/spa"
)

type doctorReport struct {
	Checks []struct {
		Name, State, Found, Do string
		Took                   string
	}
	Network, Verdict string
	Failures         int
}

func (m *machine) doctor(args ...string) (doctorReport, result) {
	m.t.Helper()
	r := m.run("", append([]string{"--timeout", "5s", "doctor", "--json", "--no-probe"}, args...)...)
	var report doctorReport
	if err := json.Unmarshal([]byte(r.out), &report); err != nil {
		m.t.Fatalf("%v: %s%s", err, r.out, r.talk)
	}
	return report, r
}

func TestDoctorNamesTheStepThatFails(t *testing.T) {
	for name, test := range map[string]struct {
		break_ func(m *machine)
		fails  string
		code   int
	}{
		"nothing":     {func(*machine) {}, "", exitOK},
		"no identity": {func(m *machine) { os.RemoveAll(m.folder) }, "identity", exitNotEnrolled},
		"silence":     {func(m *machine) { m.c.Set(func(c *controltest.Controller) { c.Lose = 1000 }) }, "controller", exitNoAnswer},
		"denied": {func(m *machine) {
			m.c.Set(func(c *controltest.Controller) { c.Deny = &spa.Denial{Code: spa.CodeNotGranted} })
		}, "grant", exitDenied},
		"the host is silent":  {func(m *machine) { m.h.Stop() }, "tunnel", exitNoAnswer},
		"the service is down": {func(m *machine) { m.h.SetTarget("127.0.0.1:1") }, "service", exitUnreachable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t).enrolled()
			m.services("echo")
			test.break_(m)
			report, r := m.doctor("echo")
			if r.code != test.code || r.talk != "" {
				t.Errorf("exit code %d, want %d; it said %s", r.code, test.code, r.talk)
			}
			failed := false
			for _, c := range report.Checks {
				want := "ok"
				switch {
				case c.Name == test.fails:
					want, failed = "fail", true
				case failed && c.Name != "clock":
					want = "skip"
				case failed || test.fails == "identity":
					want = "skip"
				}
				if c.State != want {
					t.Errorf("%s: %s (%s), want %s", c.Name, c.State, c.Found, want)
				}
			}
			if test.fails == "" && (report.Failures != 0 || report.Verdict != "echo can be reached") || test.fails != "" && !failed {
				t.Errorf("%+v", report)
			}
			if m.c.Live() != 0 {
				t.Errorf("%d sessions are left open", m.c.Live())
			}
		})
	}
}

// internetEnv makes the test binary be the servers that a doctor asks.
const internetEnv = "POSTERN_TEST_INTERNET"

// internet answers at an address as others on the internet do: a web page, DNS, STUN.
func internet(address string) {
	go func() {
		_ = http.ListenAndServe(address+":80", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusNoContent)
		}))
	}()
	go func() { // what a portal shows
		_ = http.ListenAndServe(address+":8081", http.RedirectHandler("http://portal.example/login", http.StatusFound))
	}()
	for _, network := range []string{"udp", "tcp"} {
		go func() {
			_ = dns.ListenAndServe(address+":53", network, dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
				_ = w.WriteMsg(new(dns.Msg).SetReply(r))
			}))
		}()
	}
	var servers []net.PacketConn
	for _, port := range []string{"4040", "3478"} {
		conn, err := net.ListenPacket("udp", address+":"+port)
		if err != nil {
			panic(err)
		}
		servers = append(servers, conn)
	}
	fmt.Println("ready")
	go stun(servers[0])
	stun(servers[1])
}

// stun tells whoever asks where they are.
func stun(conn net.PacketConn) {
	buf := make([]byte, 1500)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil || n < 20 {
			continue
		}
		answer := append([]byte{1, 1, 0, 12}, buf[4:20]...)
		answer = append(answer, 0, 0x20, 0, 8, 0, 1)
		answer = binary.BigEndian.AppendUint16(answer, uint16(from.(*net.UDPAddr).Port)^0x2112)
		ip := binary.BigEndian.Uint32(from.(*net.UDPAddr).IP.To4())
		_, _ = conn.WriteTo(binary.BigEndian.AppendUint32(answer, ip^0x2112A442), from)
	}
}

func TestMainOfInternet(t *testing.T) {
	if address := os.Getenv(internetEnv); address != "" {
		internet(address)
	}
}

// elsewhere moves the identity's controller to another address.
func (m *machine) elsewhere(address string) {
	m.t.Helper()
	path := filepath.Join(m.folder, "identity.json")
	b, err := os.ReadFile(path)
	if err != nil {
		m.t.Fatal(err)
	}
	b = bytes.ReplaceAll(b, []byte(m.c.Address()), []byte(address))
	if err := os.WriteFile(path, b, 0o600); err != nil {
		m.t.Fatal(err)
	}
	os.Remove(filepath.Join(m.folder, "contact.json"))
}

// A gateway that lets through what an administrator of one would, and a client and an
// internet on its two sides.
func TestDoctorNamesTheNetwork(t *testing.T) {
	testkit.RequireRoot(t)
	const server, controller = "203.0.113.5", "203.0.113.7:4040"
	client, gateway, far := testkit.Netns(t), testkit.Netns(t), testkit.Netns(t)
	testkit.Cable(t, client, "eth0", []string{"10.9.0.2/24"}, gateway, "lan", []string{"10.9.0.1/24"})
	testkit.Cable(t, far, "eth0", []string{server + "/24", "203.0.113.7/24"}, gateway, "wan", []string{"203.0.113.1/24"})
	client.Route(t, "0.0.0.0/0", "10.9.0.1")
	far.Route(t, "0.0.0.0/0", "203.0.113.1")
	gateway.Sysctl(t, "ipv4/ip_forward", "1")
	// Nobody is at the controller's port: like a controller, the machine is silent.
	far.Run(t, "nft", "add table inet q; add chain inet q in { type filter hook input priority 0; }; add rule inet q in ip daddr 203.0.113.7 udp dport 4040 drop")
	servers := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "TestMainOfInternet")
	servers.Env = append(os.Environ(), internetEnv+"="+server)
	out, err := servers.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	far.Do(t, func() { err = servers.Start() })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { servers.Process.Kill(); servers.Wait() })
	if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
		t.Fatal(err)
	}
	m := newMachine(t).enrolled()
	m.elsewhere(controller)
	program := built(t)

	for _, test := range []struct {
		name, rules, want string
		found             string
	}{
		{"all is let through", "", "good", "10.9.0.2"},
		{"the controller's port alone is dropped", "udp dport 4040 drop", "good", "whether to port 4040, the controller's, too, nobody else can be asked"},
		{"the same with a server of one's own there", "udp dport 4040 drop", "port blocked", "UDP gets out to port 3478, 53, and not to 4040"},
		{"all is let through with a server of one's own there", "", "good", "UDP gets out to port 3478, 4040, 53 and"},
		{"all UDP is dropped", "meta l4proto udp drop", "udp blocked", "UDP does not"},
		{"all UDP but DNS is dropped", "meta l4proto udp udp dport != 53 drop", "port blocked", "UDP gets out to port 53, and not to 3478"},
		{"the port is refused", "udp dport 4040 reject", "port refused", "port unreachable"},
		{"the port is refused by an administrator", "udp dport 4040 reject with icmp type admin-prohibited", "port refused", "refuses"},
		{"everything is dropped", "drop", "no network", "nobody on the internet"},
		{"a portal takes web pages", "portal", "captive portal", "http://portal.example/login"},
	} {
		t.Run(test.name, func(t *testing.T) {
			gateway.Run(t, "nft", "add table ip f; delete table ip f")
			switch test.rules {
			case "":
			case "portal":
				gateway.Run(t, "nft", "add table ip f; add chain ip f pre { type nat hook prerouting priority -100; }; "+
					"add rule ip f pre tcp dport 80 dnat to "+server+":8081; "+
					"add chain ip f through { type filter hook forward priority 0; }; add rule ip f through meta l4proto udp drop")
			default:
				gateway.Run(t, "nft", "add table ip f; add chain ip f through { type filter hook forward priority 0; }; add rule ip f through iifname lan "+test.rules)
			}
			gateway.ForgetFlows(t)
			cmd := exec.CommandContext(t.Context(), program, "--timeout", "2s", "doctor", "--json",
				"--probe", "web=http://"+server+"/", "--probe", "dns="+server+":53", "--probe", "stun="+server+":3478")
			if strings.Contains(test.name, "server of one's own") {
				cmd.Args = append(cmd.Args, "--probe", "stun="+server+":4040")
			}
			cmd.Env = m.command().Env
			var out bytes.Buffer
			cmd.Stdout = &out
			client.Do(t, func() { err = cmd.Start() })
			if err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			var report doctorReport
			if err := json.Unmarshal(out.Bytes(), &report); err != nil {
				t.Fatalf("%v: %s", err, out.String())
			}
			if report.Network != test.want || !strings.Contains(out.String(), test.found) {
				t.Errorf("it is called %q, want %q, with %q:\n%s", report.Network, test.want, test.found, out.String())
			}
			if code := cmd.ProcessState.ExitCode(); code != exitNoAnswer {
				t.Errorf("exit code %d", code)
			}
		})
	}
	t.Run("there is no route", func(t *testing.T) {
		client.Run(t, "ip", "route", "del", "default")
		cmd := exec.CommandContext(t.Context(), program, "doctor", "--no-probe")
		cmd.Env = m.command().Env
		var out bytes.Buffer
		cmd.Stdout = &out
		client.Do(t, func() { err = cmd.Start() })
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		_ = cmd.Wait()
		if !strings.Contains(out.String(), "fail  route") || !strings.Contains(out.String(), "connect this machine to a network") ||
			time.Since(begin) > 10*time.Second {
			t.Errorf("%s", out.String())
		}
	})
}

// At a terminal a person is told what is waited for; a script is not.
func TestLongWaitsAreToldAtATerminal(t *testing.T) {
	m := newMachine(t).enrolled()
	m.c.Set(func(c *controltest.Controller) { c.Lose = 1000 })
	cmd := m.command("--timeout", "3s", "services")
	line := fmt.Sprintf("%s --timeout 3s services", os.Args[0])
	terminal := exec.CommandContext(t.Context(), "script", "-qec", line, "/dev/null")
	terminal.Env = cmd.Env
	out, _ := terminal.CombinedOutput()
	if !strings.Contains(string(out), "waiting for the controller's answer") {
		t.Errorf("at a terminal: %s", out)
	}
	if r := m.run("", "--timeout", "2s", "services"); strings.Contains(r.talk, "waiting") {
		t.Errorf("without one: %s", r.talk)
	}
}
