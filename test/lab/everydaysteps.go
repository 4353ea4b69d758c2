package lab

import (
	"context"
	"crypto/md5" //nolint:gosec // PostgreSQL's own function of that name, no secret
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"
)

// Steps are what a person does on a day, each with the real program. Between them
// nothing is left open but what the next one opens.
func (e *Everyday) Steps() []Step {
	return []Step{
		e.step("ssh: bytes both ways, exit codes", e.sshWorks),
		e.step("scp: a file there and back", e.scpWorks),
		e.step("sftp: put, rename, list, get", e.sftpWorks),
		e.step("rsync: a tree, its changes, and back", e.rsyncWorks),
		e.step("git: clone, push, a rejected push, fetch", e.gitWorks),
		e.step("ten ssh at once, one session for everything so far", e.tenAtOnce),
		e.step("ssh-config --uninstall leaves what was there", e.uninstallWorks),
		e.step("curl: down, up, in parts, forty at once", e.curlWorks),
		e.step("psql: transactions, COPY both ways, a wrong password", e.psqlWorks),
		e.step("dig: answers over UDP and TCP", e.digWorks),
		e.step("logger: log lines over UDP", e.loggerWorks),
		e.step("mosh: a shell over UDP", e.moshWorks),
		e.step("postern up: dig finds psql its server", e.upWorks),
		e.step("postern proxy: Chromium and curl find a page by its name", e.proxyWorks),
	}
}

// forward carries connections to a service and calls do with its local address.
func (e *Everyday) forward(ctx context.Context, service string, do func(host, port string) error) error {
	f, err := e.Connect(ctx, "client", service)
	if err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(f.Address)
	if err == nil {
		err = do(host, port)
	}
	return errors.Join(err, f.Close())
}

func (e *Everyday) curlWorks(ctx context.Context) (evidence string, err error) {
	err = e.forward(ctx, "web", func(host, port string) error {
		return e.curl(ctx, "http://"+net.JoinHostPort(host, port))
	})
	return "16 MiB down, 8 MiB up, a resumed download, 40 requests on many connections, a 404", err
}

func (e *Everyday) curl(ctx context.Context, site string) error {
	large, up := noise("large.bin", 16<<20), noise("curl up", 8<<20)
	file := e.path(atClient, "large.bin")
	curl := func(args ...string) (string, error) {
		return e.use(ctx, "curl", append([]string{"-sS", "--fail", "--max-time", "30"}, args...)...)
	}
	if _, err := curl("-o", file, site+"/large.bin"); err != nil {
		return err
	}
	if err := holds(file, large); err != nil {
		return err
	}
	if err := os.Truncate(file, 5_000_000); err != nil {
		return err
	}
	if _, err := curl("-C", "-", "-o", file, site+"/large.bin"); err != nil {
		return err
	}
	if err := holds(file, large); err != nil {
		return fmt.Errorf("resumed: %w", err)
	}
	if err := os.WriteFile(e.path(atClient, "up.bin"), up, 0o600); err != nil {
		return err
	}
	if _, err := curl("-T", e.path(atClient, "up.bin"), site+"/upload/up.bin"); err != nil {
		return err
	}
	if err := holds(e.path("web", "pages", "upload", "up.bin"), up); err != nil {
		return err
	}
	out, err := curl("-Z", "--parallel-max", "20", "--no-progress-meter", site+"/numbers.json?[1-40]")
	if err != nil || strings.Count(out, "[19, 23]") != 40 {
		return errors.Join(broken("forty requests at once brought %q", out), err)
	}
	if _, err := curl(site + "/none"); exitCode(err) != 22 {
		return broken("curl --fail of a page that is not there: %v", err)
	}
	return nil
}

func (e *Everyday) psqlWorks(ctx context.Context) (evidence string, err error) {
	err = e.forward(ctx, "db", func(host, port string) error { return e.psql(ctx, host, port) })
	return "100000 rows in and out by COPY, commit and rollback, exit codes 1, 2 and 3", err
}

func (e *Everyday) psql(ctx context.Context, host, port string) error {
	psql := func(password, script string, args ...string) (string, error) {
		env := []string{"PGPASSWORD=" + password, "PGCONNECT_TIMEOUT=10"}
		return e.useWith(ctx, strings.NewReader(script), env, "psql", append([]string{"-X", "-q", "-A", "-t",
			"-v", "ON_ERROR_STOP=1", "-h", host, "-p", port, "-U", "alice", "-d", "postgres"}, args...)...)
	}
	var rows strings.Builder // some 4 MB
	for i := range 100_000 {
		fmt.Fprintf(&rows, "%d\t%x\n", i, noise(fmt.Sprint(i), 16))
	}
	if _, err := psql(e.password, "CREATE TABLE things (id int PRIMARY KEY, what text);"); err != nil {
		return err
	}
	if _, err := psql(e.password, rows.String(), "-c", `\copy things from pstdin`); err != nil {
		return err
	}
	out, err := psql(e.password, "COPY (SELECT * FROM things ORDER BY id) TO STDOUT;")
	if err != nil || out != rows.String() {
		return errors.Join(broken("COPY brought %d bytes, %d went in", len(out), rows.Len()), err)
	}
	// What the server makes of it: not only what psql hands back.
	hash := md5.Sum([]byte(rows.String()))
	out, err = psql(e.password, `SELECT md5(string_agg(id || E'\t' || what || E'\n', '' ORDER BY id)) FROM things;`)
	if err != nil || strings.TrimSpace(out) != hex.EncodeToString(hash[:]) {
		return errors.Join(broken("the server has rows of md5 %s, not %x", strings.TrimSpace(out), hash), err)
	}
	out, err = psql(e.password, `BEGIN; DELETE FROM things WHERE id >= 10; SAVEPOINT s; DELETE FROM things;
ROLLBACK TO s; COMMIT; BEGIN; DELETE FROM things; ROLLBACK; SELECT count(*) FROM things;`)
	if err != nil || strings.TrimSpace(out) != "10" {
		return errors.Join(broken("after the transactions there are %q rows, not 10", out), err)
	}
	if _, err := psql(e.password, "SELECT nothing FROM nowhere;"); exitCode(err) != 3 {
		return broken("psql with an error in its script: %v", err)
	}
	if _, err := psql(e.password, "", "-c", "SELECT 1/0"); exitCode(err) != 1 {
		return broken("psql -c with an error: %v", err)
	}
	_, err = psql("wrong", "SELECT 1;")
	if exitCode(err) != 2 || !strings.Contains(err.Error(), "password authentication failed") {
		return broken("psql with a wrong password: %v", err)
	}
	return nil
}

func (e *Everyday) digWorks(ctx context.Context) (evidence string, err error) {
	err = errors.Join(
		e.forward(ctx, "names", func(host, port string) error { return e.dig(ctx, host, port, "+notcp") }),
		e.forward(ctx, "names-tcp", func(host, port string) error { return e.dig(ctx, host, port, "+tcp") }))
	return "A, AAAA, MX, a long TXT, NXDOMAIN, 100 questions in a row; over UDP and over TCP", err
}

func (e *Everyday) dig(ctx context.Context, host, port, transport string) error {
	dig := func(args ...string) (string, error) {
		return e.use(ctx, "dig", append([]string{"@" + host, "-p", port, transport, "+ignore", "+tries=1", "+time=3"},
			args...)...)
	}
	for _, c := range []struct{ name, kind, want string }{
		{"wiki.inside.example", "A", "192.0.2.7"},
		{"wiki.inside.example", "AAAA", "2001:db8::7"},
		{"inside.example", "MX", "10 mail.inside.example."},
	} {
		out, err := dig("+short", c.name, c.kind)
		if err != nil || strings.TrimSpace(out) != c.want {
			return errors.Join(broken("dig %s %s %s: %q, want %q", transport, c.name, c.kind, out, c.want), err)
		}
	}
	out, err := dig("none.inside.example", "A")
	if err != nil || !strings.Contains(out, "status: NXDOMAIN") {
		return errors.Join(broken("dig %s of a name that is not: %q", transport, out), err)
	}
	out, err = dig("+short", "+bufsize=4096", "long.inside.example", "TXT")
	lines := strings.Fields(out)
	slices.Sort(lines)
	if err != nil || len(lines) != 4 || lines[3] != `"3`+strings.Repeat("x", 220)+`"` {
		return errors.Join(broken("dig %s of a long answer: %q", transport, out), err)
	}
	file := e.path(atClient, "questions")
	if err := os.WriteFile(file, []byte(strings.Repeat("wiki.inside.example A\n", 100)), 0o600); err != nil {
		return err
	}
	out, err = dig("+short", "-f", file)
	if err != nil || strings.Count(out, "192.0.2.7\n") != 100 {
		return errors.Join(broken("100 questions %s, %d answers", transport, strings.Count(out, "192.0.2.7\n")), err)
	}
	return nil
}

func (e *Everyday) loggerWorks(ctx context.Context) (evidence string, err error) {
	const lines = 50
	err = e.forward(ctx, "log", func(host, port string) error {
		var text strings.Builder
		for i := range lines {
			fmt.Fprintf(&text, "line %d of the day\n", i)
		}
		_, err := e.useWith(ctx, strings.NewReader(text.String()), nil, "logger", "--udp", "--server", host,
			"--port", port, "--tag", "everyday", "--rfc5424")
		if err != nil {
			return err
		}
		return Wait(ctx, 5*time.Second, "the log lines", func() (bool, error) {
			return len(e.logged.all()) >= lines, fmt.Errorf("%d came", len(e.logged.all()))
		})
	})
	if err != nil {
		return "", err
	}
	for i, got := range e.logged.all() {
		if !strings.HasSuffix(got, fmt.Sprintf("line %d of the day", i)) || !strings.Contains(got, "everyday") {
			return "", broken("log line %d came as %q", i, got)
		}
	}
	return fmt.Sprintf("%d lines, each once and in order", lines), nil
}

// moshWorks starts a mosh server over ssh, as mosh does, and types into the real
// mosh-client on a terminal of its own.
func (e *Everyday) moshWorks(ctx context.Context) (evidence string, err error) {
	out, err := e.use(ctx, "postern", "ssh", "-F", e.sshConfig(), "ssh-lab", "LC_ALL=C.UTF-8", "mosh-server", "new", "-i", "127.0.0.1",
		"-p", fmt.Sprint(moshPort), "--", "/bin/sh")
	if err != nil {
		return "", err
	}
	_, rest, found := strings.Cut(out, fmt.Sprintf("MOSH CONNECT %d ", moshPort))
	if !found {
		return "", broken("mosh-server said %q", out)
	}
	keyText, _, _ := strings.Cut(rest, "\n")
	err = e.forward(ctx, "mosh", func(host, port string) error {
		typed := strings.NewReader("echo $((1000+234))-lives\nexit\n")
		env := []string{"MOSH_KEY=" + strings.TrimSpace(keyText), "MOSH_PREDICTION_DISPLAY=never"}
		out, err := e.useWith(ctx, typed, env, "script", "-qefc",
			fmt.Sprintf("stty rows 24 cols 80; mosh-client %s %s", host, port), "/dev/null")
		if err != nil || !strings.Contains(out, "1234-lives") {
			return errors.Join(broken("mosh showed %q", tail(out, 30)), err)
		}
		return nil
	})
	return "a command typed, its output shown, the shell ended", err
}
