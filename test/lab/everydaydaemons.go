package lab

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// giveTo makes a file of the lab's, or a new folder, a user's of the machine.
func (e *Everyday) giveTo(name, file string) error {
	u, err := user.Lookup(name)
	if err != nil {
		return fmt.Errorf("find user %s: %w", name, err)
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return err
	}
	if err := os.Mkdir(e.path(file), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return os.Chown(e.path(file), uid, gid)
}

// daemon keeps a started service and waits until it has its port open.
func (e *Everyday) daemon(ctx context.Context, p *Process, network string, port uint16) error {
	e.daemons = append(e.daemons, p)
	return Wait(ctx, 20*time.Second, fmt.Sprintf("%s to listen", p.name), func() (bool, error) {
		if !p.Running() {
			return false, fmt.Errorf("it ended: %s", p.Log())
		}
		return e.listens("host", network, port)
	})
}

// postgresBin is the folder of the newest PostgreSQL server of the machine.
func postgresBin() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil || len(found) == 0 {
		return "", errors.Join(errors.New("no PostgreSQL server in /usr/lib/postgresql"), err)
	}
	version := func(path string) int {
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
		return n
	}
	return filepath.Dir(slices.MaxFunc(found, func(a, b string) int { return cmp.Compare(version(a), version(b)) })), nil
}

// databaseHome is where the server finds its folder.
const databaseHome = "/var/lib/postgresql"

// asPostgres are the words before a command of the server's, which refuses root.
func (e *Everyday) asPostgres() []string {
	words := []string{"--reuid", "postgres", "--regid", "postgres", "--init-groups"}
	if e.Attached { // the change of user has cleared what Start asked for
		words = append(words, "--pdeathsig", "KILL")
	}
	return words
}

// startDatabase makes a fresh PostgreSQL cluster of alice's, who needs her password.
func (e *Everyday) startDatabase(ctx context.Context) error {
	bin, err := postgresBin()
	if err != nil {
		return err
	}
	if err := e.giveTo("postgres", "postgres"); err != nil {
		return err
	}
	e.password = rand.Text()
	const file = "postgres/password"
	if err := os.WriteFile(e.path(file), []byte(e.password+"\n"), 0o600); err != nil {
		return err
	}
	if err := e.giveTo("postgres", file); err != nil {
		return err
	}
	initdb := e.seeing(ctx, "postgres", databaseHome, "setpriv", append(e.asPostgres(), filepath.Join(bin, "initdb"),
		"--no-sync", "--no-instructions", "--encoding=UTF8", "--locale=C.UTF-8", "--auth=scram-sha-256",
		"--username=alice", "--pwfile="+databaseHome+"/password", "-D", databaseHome+"/data")...)
	if _, err := e.runCommand(initdb, nil, "host"); err != nil {
		return err
	}
	server, err := e.startSeeing("host", "postgres", databaseHome, "setpriv", append(e.asPostgres(),
		filepath.Join(bin, "postgres"), "-D", databaseHome+"/data", "-c", "listen_addresses=127.0.0.1",
		"-c", fmt.Sprintf("port=%d", databasePort), "-c", "unix_socket_directories=", "-c", "fsync=off")...)
	if err != nil {
		return err
	}
	if err := e.daemon(ctx, server, "tcp", databasePort); err != nil {
		return err
	}
	return Wait(ctx, 20*time.Second, "the database to be ready", func() (bool, error) {
		_, err := e.Run(ctx, "host", filepath.Join(bin, "pg_isready"), "-q", "-h", "127.0.0.1")
		return err == nil, err
	})
}

// webHome is where nginx finds its folder.
const webHome = "/srv"

const nginxConfig = `daemon off;
user www-data;
worker_processes 1;
error_log stderr;
pid /srv/nginx.pid;
events { worker_connections 256; }
http {
  types { text/html html; application/javascript js; application/json json; application/octet-stream bin; }
  access_log off;
  client_max_body_size 64m;
  client_body_temp_path /srv/temp;
  server {
    listen 127.0.0.1:80;
    root /srv/pages;
    location /upload/ { dav_methods PUT; }
  }
}
`

// page shows what its script has made of a second answer of the server's.
const page = `<!doctype html>
<html><head><title>inside</title></head>
<body><p id="said">nothing yet</p><script src="/page.js"></script></body></html>
`

const pageScript = `fetch("/numbers.json").then(r => r.json()).then(numbers => {
  const sum = numbers.reduce((a, b) => a + b, 0);
  document.getElementById("said").textContent = "the script says " + sum + " at " + location.hostname;
});
`

// startWeb runs nginx with a page, its script, a file of some size and a folder
// for what comes in.
func (e *Everyday) startWeb(ctx context.Context) error {
	for _, folder := range []string{"web", "web/pages", "web/pages/upload", "web/temp"} {
		if err := e.giveTo("www-data", folder); err != nil {
			return err
		}
	}
	for name, content := range map[string][]byte{
		"nginx.conf": []byte(nginxConfig), "pages/index.html": []byte(page), "pages/page.js": []byte(pageScript),
		"pages/numbers.json": []byte("[19, 23]"), "pages/large.bin": noise("large.bin", 16<<20),
	} {
		if err := os.WriteFile(e.path("web", name), content, 0o644); err != nil {
			return err
		}
	}
	server, err := e.startSeeing("host", "web", webHome, "nginx", "-e", "stderr", "-p", webHome, "-c", webHome+"/nginx.conf")
	if err != nil {
		return err
	}
	return e.daemon(ctx, server, "tcp", webServerPort)
}

// startNames runs dnsmasq with a zone of its own.
func (e *Everyday) startNames(ctx context.Context) error {
	args := []string{
		"--keep-in-foreground", "--log-facility=-", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--pid-file",
		"--user=root", "--listen-address=127.0.0.1", "--bind-interfaces", fmt.Sprintf("--port=%d", namesPort),
		"--local=/inside.example/", "--host-record=wiki.inside.example,192.0.2.7,2001:db8::7",
		"--mx-host=inside.example,mail.inside.example,10", "--edns-packet-max=4096",
	}
	for i := range 4 { // an answer of some 900 bytes
		args = append(args, fmt.Sprintf("--txt-record=long.inside.example,%d%s", i, strings.Repeat("x", 220)))
	}
	server, err := e.Start("host", "dnsmasq", args...)
	if err != nil {
		return err
	}
	return e.daemon(ctx, server, "udp", namesPort)
}

// mailbox keeps the datagrams that came to a socket, at most 1024.
type mailbox struct {
	mu      sync.Mutex
	letters []string
}

func (m *mailbox) all() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.letters)
}

// startLogs receives syslog's datagrams.
func (e *Everyday) startLogs(context.Context) error {
	var socket net.PacketConn
	err := e.in("host", func() (err error) {
		socket, err = net.ListenPacket("udp", fmt.Sprintf("127.0.0.1:%d", logPort))
		return err
	})
	if err != nil {
		return err
	}
	e.packets = append(e.packets, socket)
	e.logged = &mailbox{}
	go func() { // ends when Down closes the socket
		b := make([]byte, 2048)
		for {
			n, _, err := socket.ReadFrom(b)
			if err != nil {
				return
			}
			e.logged.mu.Lock()
			if len(e.logged.letters) < 1024 {
				e.logged.letters = append(e.logged.letters, string(b[:n]))
			}
			e.logged.mu.Unlock()
		}
	}()
	return nil
}

// exitCode returns the exit code in a program's error, 0 without one, -1 when the
// program did not end by itself.
func exitCode(err error) int {
	if err == nil {
		return 0
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Exited() {
			return status.ExitStatus()
		}
	}
	return -1
}
