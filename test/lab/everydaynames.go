package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"
)

// upDNS is where `postern up` answers for names, unless it is told otherwise.
const upDNS, upDNSPort = "127.63.0.53", "5354"

// upWorks has all services up, asks for the database's address as a resolver would,
// and works there.
func (e *Everyday) upWorks(ctx context.Context) (evidence string, err error) {
	before, err := e.granted("db")
	if err != nil {
		return "", err
	}
	up, err := e.start("client", "postern-up", e.clientCommand(context.Background(), "client", "up"))
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, up.Stop()) }()
	var at netip.Addr
	err = Wait(ctx, 10*time.Second, "postern up to know the database", func() (bool, error) {
		out, err := e.use(ctx, "dig", "@"+upDNS, "-p", upDNSPort, "+short", "+tries=1", "+time=1",
			"db.postern.internal", "A")
		if err != nil {
			return false, fmt.Errorf("%w: %s", err, up.Log())
		}
		at, err = netip.ParseAddr(strings.TrimSpace(out))
		return err == nil, err
	})
	if err != nil {
		return "", err
	}
	if !at.IsLoopback() {
		return "", broken("the database's address is %s", at)
	}
	if after, err := e.granted("db"); err != nil || after != before {
		return "", errors.Join(broken("nobody has used the database, and there are %d sessions more", after-before), err)
	}
	env := []string{"PGPASSWORD=" + e.password}
	for range 3 {
		out, err := e.useWith(ctx, nil, env, "psql", "-X", "-A", "-t", "-h", at.String(), "-U", "alice", "-d", "postgres",
			"-c", "SELECT count(*) FROM things")
		if err != nil || strings.TrimSpace(out) != "10" {
			return "", errors.Join(broken("psql at %s printed %q", at, out), err)
		}
	}
	after, err := e.granted("db")
	if err == nil && after != before+1 {
		err = broken("three psql took %d sessions, not one", after-before)
	}
	return fmt.Sprintf("db.postern.internal is %s; not one session before, one for three psql", at), err
}

// proxyWorks opens the page with the headless Chromium and with curl.
func (e *Everyday) proxyWorks(ctx context.Context) (evidence string, err error) {
	proxy, err := e.Offer(ctx, "client", "proxy", "--listen", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, proxy.Close()) }()
	const site = "http://web.postern.internal/"
	for _, kind := range []string{"socks5h://", "http://"} {
		out, err := e.use(ctx, "curl", "-sS", "--fail", "--max-time", "10", "--proxy", kind+proxy.Address, site)
		if err != nil || out != page {
			return "", errors.Join(broken("curl through %s printed %q", kind, out), err)
		}
	}
	_, err = e.use(ctx, "curl", "-sS", "--max-time", "10", "--proxy", "socks5h://"+proxy.Address,
		fmt.Sprintf("http://%s:%d/", HostV4, webServerPort))
	if exitCode(err) != 97 { // CURLE_PROXY
		return "", broken("curl of what is no service: %v", err)
	}
	if evidence, err = e.browse(ctx, site, "--proxy-server=socks5://"+proxy.Address); err != nil {
		return evidence, err
	}
	pac, err := e.browse(ctx, site, "--proxy-pac-url=http://"+proxy.Address+"/proxy.pac")
	if err != nil {
		return pac, fmt.Errorf("with the automatic configuration: %w", err)
	}
	out, err := e.use(ctx, "postern", "exec", "--", "curl", "-sS", "--fail", "--max-time", "10", site)
	if err == nil && out != page {
		err = broken("postern exec -- curl printed %q", out)
	}
	return evidence + ", also with proxy.pac; curl over SOCKS, HTTP and in postern exec", err
}

// browse opens an address with the real browser, without any profile, and checks
// what its script has made of the page.
func (e *Everyday) browse(ctx context.Context, site, proxy string) (string, error) {
	profile, err := os.MkdirTemp(e.path(atClient), "profile")
	if err != nil {
		return "", err
	}
	begun := time.Now()
	out, err := e.use(ctx, "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
		"--user-data-dir="+profile, proxy, "--virtual-time-budget=10000", "--dump-dom", site)
	const want = "the script says 42 at web.postern.internal"
	if err != nil || !strings.Contains(out, want) {
		return "", errors.Join(broken("Chromium shows %q", out), err)
	}
	return fmt.Sprintf("Chromium shows %q after %s", want, time.Since(begun).Round(10*time.Millisecond)), nil
}
