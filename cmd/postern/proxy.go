package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/client"
	"github.com/postern-sdp/postern/client/proxy"
	"github.com/postern-sdp/postern/internal/atomicfile"
)

func (p program) proxy() *cli.Command {
	return &cli.Command{
		Name:  "proxy",
		Usage: "offer all services through a local SOCKS5 and HTTP proxy",
		UsageText: "postern proxy [--listen ADDRESS] [--others refuse|direct] [--password-file FILE] " +
			"[--for DURATION] [--json]",
		Description: `Offers every service under its name, SERVICE.postern.internal or just SERVICE, to
programs that know proxies: SOCKS5 with UDP, and HTTP, on one local port, whose
address is printed on standard output, until Ctrl-C. The first connection to a
service knocks; a session that nobody uses ends.

   $ postern proxy
   $ curl --proxy socks5h://127.0.0.1:1080 http://wiki.postern.internal:8080/

Browsers take http://127.0.0.1:1080/proxy.pac as their automatic configuration:
it sends services' names to the proxy, and everything else past it. Hosts that are
no services are refused; --others direct dials them from here.

Any user of this machine can use the port, and so your services, unless there is a
password: a private file with one line USER:PASSWORD.

   $ (umask 077; echo "me:$(openssl rand -hex 16)" > proxy.password)
   $ postern proxy --password-file proxy.password`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "listen", Value: "127.0.0.1:1080", Usage: "local `ADDRESS` to listen on; port 0 takes a free one"},
			&cli.BoolFlag{Name: "listen-anyone", Usage: "let --listen take an address that others can reach; needs a password"},
			othersFlag("refuse"),
			&cli.PathFlag{Name: "password-file", TakesFile: true, Usage: "`FILE` with USER:PASSWORD, which clients have to give"},
			forFlag(),
			jsonFlag(),
		},
		Action: p.runProxy,
	}
}

func othersFlag(usual string) cli.Flag {
	return &cli.StringFlag{Name: "others", Value: usual, Usage: "`WHAT` becomes of hosts that are no services: refuse or direct"}
}

func (p program) runProxy(c *cli.Context) error {
	if err := none(c); err != nil {
		return err
	}
	var password proxy.Password
	if path := c.Path("password-file"); path != "" {
		text, err := atomicfile.ReadPrivate(path)
		if err != nil {
			return fmt.Errorf("read password: %w", err)
		}
		if password, err = proxy.ParsePassword(string(text)); err != nil {
			return usagef("%s: %w", path, err)
		}
	}
	if c.Bool("listen-anyone") && password.IsZero() {
		return usagef("proxy: with --listen-anyone, the network could use your services: give a --password-file")
	}
	return p.offerProxy(c, password, func(at net.Addr) error {
		if c.Bool("json") {
			return p.printJSON(proxyText(at))
		}
		if _, err := fmt.Fprintln(p.out, at); err != nil {
			return err
		}
		user := ""
		if !password.IsZero() {
			user = "USER:PASSWORD@"
		}
		p.hintf("export ALL_PROXY=socks5h://%s%s", user, at)
		p.hintf("automatic configuration of browsers: %s", proxyText(at).PAC)
		return nil
	})
}

// offerProxy serves a proxy until Ctrl-C, once began has told where.
func (p program) offerProxy(c *cli.Context, password proxy.Password, began func(net.Addr) error) error {
	l, config, end, err := p.openProxy(c, password)
	if err != nil {
		return err
	}
	defer end()
	if err := began(l.Addr()); err != nil {
		return err
	}
	if err := proxy.Serve(c.Context, l, config); err != nil {
		return err
	}
	return context.Cause(c.Context)
}

// openProxy returns all that a proxy needs, with what ends it.
func (p program) openProxy(c *cli.Context, password proxy.Password) (net.Listener, proxy.Config, func(), error) {
	var none proxy.Config
	others, err := parseOthers(c.String("others"))
	if err != nil {
		return nil, none, nil, err
	}
	asked, err := length(c)
	if err != nil {
		return nil, none, nil, err
	}
	device, err := open(c)
	if err != nil {
		return nil, none, nil, err
	}
	address := c.String("listen")
	if address == "" {
		address = "127.0.0.1:0"
	}
	l, err := client.Listen(c.Context, address, c.Bool("listen-anyone"))
	if err != nil {
		return nil, none, nil, err
	}
	dialer := p.dialer(device, client.DialerConfig{For: asked})
	said := &troubles{program: p, device: device, last: make(map[string]time.Time)}
	config := proxy.Config{
		Dialer: dialer, Others: others, Password: password, Notify: said.tell,
		Services: func(ctx context.Context) ([]client.Service, error) {
			all, err := p.list(ctx, device)
			return all.Services, err
		},
	}
	stop := p.publish(c.Context, device, c.Command.Name, dialer.Sessions)
	return l, config, func() { stop(); l.Close(); dialer.Close() }, nil
}

func parseOthers(s string) (proxy.Others, error) {
	switch s {
	case "refuse":
		return proxy.Refuse, nil
	case "direct":
		return proxy.Direct, nil
	}
	return proxy.Refuse, usagef("--others: want refuse or direct, got %q", s)
}

// proxyJSON is where a proxy is.
type proxyJSON struct {
	Listen string `json:"listen"`
	SOCKS  string `json:"socks"`
	HTTP   string `json:"http"`
	PAC    string `json:"pac"`
}

func proxyText(at net.Addr) proxyJSON {
	return proxyJSON{
		Listen: at.String(), SOCKS: "socks5h://" + at.String(), HTTP: "http://" + at.String(),
		PAC: "http://" + at.String() + proxy.PathPAC,
	}
}

const (
	sayAgain    = time.Minute // until the same trouble is told once more
	maxTroubles = 64          // different ones, that are remembered
)

// troubles tells why connections through a proxy failed, where its clients only show
// that they did. Programs try again and again: the same is told once in a while.
type troubles struct {
	program
	device *client.Client

	mu   sync.Mutex           // guards last, and keeps lines together
	last map[string]time.Time // by what was said
}

func (t *troubles) tell(host string, err error) {
	what := host + ": " + err.Error()
	if isSilence(err) {
		what = "silence" // of the controller's, whatever is asked for
	}
	if errors.Is(err, proxy.ErrOther) {
		what = "others"
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if time.Since(t.last[what]) < sayAgain {
		return
	}
	if len(t.last) >= maxTroubles {
		clear(t.last)
	}
	t.last[what] = time.Now()
	if errors.Is(err, proxy.ErrOther) {
		t.sayf("%s is refused: it is no service of yours", host)
		t.hintf("--others direct lets such hosts through, from this machine")
		return
	}
	t.complain(explain(t.device, fmt.Errorf("%s: %w", host, err)))
}
