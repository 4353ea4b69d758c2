package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/postern-sdp/postern/host/doctor"
)

func report() doctor.Report {
	return doctor.Report{
		Findings: []doctor.Finding{
			{Name: "clock", State: doctor.OK, Found: "2ms behind the controller's"},
			{Name: "other filters", State: doctor.Fail, Found: "ufw drops it", Do: "ufw allow 4042/udp"},
		},
		Doors: []doctor.Door{
			{Protocol: "tcp", Address: "0.0.0.0", Port: 22, Program: "sshd", Sees: doctor.Visible, Why: "keep ::/0"},
			{Protocol: "tcp", Address: "172.17.0.2:80", Port: 8080, Last: 8090, Published: true, Sees: doctor.Dark},
			{Protocol: "udp", Address: "::", Port: 53, Sees: doctor.Kept, Why: "192.0.2.0/24"},
		},
		Stranger: "a stranger sees 1 port: tcp/22", Failures: 1,
	}
}

func TestTheDoctorsReportIsAlignedAndSaysWhatToDo(t *testing.T) {
	const want = `ok    clock          2ms behind the controller's
fail  other filters  ufw drops it
                     -> ufw allow 4042/udp

What answers here, and to whom:
  tcp/22         on 0.0.0.0                sshd  VISIBLE (keep ::/0)
  tcp/8080-8090  sent on to 172.17.0.2:80  ?     dark
  udp/53         on ::                     ?     open to 192.0.2.0/24

checks 2, warnings 0, failures 1: a stranger sees 1 port: tcp/22
`
	var b bytes.Buffer
	if err := printReport(&b, report(), false); err != nil || b.String() != want {
		t.Errorf("%v, printed\n%s\nwant\n%s", err, b.String(), want)
	}
	b.Reset()
	if err := printReport(&b, report(), true); err != nil || !strings.Contains(b.String(), "\x1b[31mfail\x1b[0m") {
		t.Errorf("%v, in colours:\n%q", err, b.String())
	}
}

func TestColourIsForTerminalsOnly(t *testing.T) {
	f, err := os.Create(t.TempDir() + "/out")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if coloured(f) || coloured(&bytes.Buffer{}) {
		t.Error("a file gets colours")
	}
}

func TestTheDoctorExaminesAHostWhoseConfigurationIsBroken(t *testing.T) {
	got := command(t, "", "doctor", "--json", "--config", configuration(t, "tunel = 1\n"))
	var r doctor.Report
	if err := json.Unmarshal([]byte(got.out), &r); err != nil {
		t.Fatalf("%v: %s", err, got.out)
	}
	if got.code != exitFailed || len(r.Findings) < 10 || r.Findings[0].Name != "configuration" ||
		r.Findings[0].State != doctor.Fail || !strings.Contains(r.Findings[0].Found, "tunel") {
		t.Errorf("code %d: %+v", got.code, r.Findings)
	}
	if !strings.HasPrefix(got.talk, "postern-host: something is wrong") {
		t.Errorf("said %q", got.talk)
	}
	for _, port := range []string{"65536", "0", "icmp/1", "tcp/", "tcp", "-1", "22/tcp"} {
		if got := command(t, "", "doctor", "--port", port); got.code != exitUsage || got.out != "" {
			t.Errorf("port %s: code %d", port, got.code)
		}
	}
}
