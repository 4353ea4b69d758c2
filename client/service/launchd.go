package service

import (
	"context"
	"encoding/xml"
	"errors"
	"os"
	"os/exec"
	"strings"
)

// label is the agent's name.
const label = "io.github.postern-sdp.postern"

const plist = `<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<!-- Keeps the services that this device may reach reachable, for one user. -->
<plist version="1.0">
<dict>
	<key>Label</key>
	<string>LABEL</string>
	<key>ProgramArguments</key>
	<array>
ARGUMENTS	</array>
	<key>RunAtLoad</key>
	<true/>
	<key>KeepAlive</key>
	<dict>
		<key>SuccessfulExit</key>
		<false/>
	</dict>
	<key>ThrottleInterval</key>
	<integer>10</integer>
	<key>ExitTimeOut</key>
	<integer>15</integer>
	<key>ProcessType</key>
	<string>Background</string>
	<key>Umask</key>
	<integer>63</integer>
	<key>StandardOutPath</key>
	<string>LOG</string>
	<key>StandardErrorPath</key>
	<string>LOG</string>
</dict>
</plist>
`

// Plist returns the property list of a launchd agent for spec.
func Plist(spec Spec) string {
	var arguments strings.Builder
	for _, arg := range append([]string{spec.Program}, spec.Args...) {
		arguments.WriteString("\t\t<string>" + quoteXML(arg) + "</string>\n")
	}
	log := spec.Log
	if log == "" {
		log = os.DevNull
	}
	return strings.NewReplacer("LABEL", label, "ARGUMENTS", arguments.String(), "LOG", quoteXML(log)).Replace(plist)
}

func quoteXML(text string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(text)) // a Builder takes everything
	return b.String()
}

// launchd is the manager of macOS.
type launchd struct{ user, file string }

func (l launchd) state() State {
	return State{Installed: exists(l.file), Manager: "launchd", Name: l.target(), File: l.file}
}

func (l launchd) domain() string                 { return "gui/" + l.user }
func (l launchd) target() string                 { return l.domain() + "/" + label }
func (l launchd) text(spec Spec) (string, error) { return Plist(spec), nil }
func (l launchd) encode(text string) []byte      { return []byte(text) }
func (l launchd) forget(context.Context) error   { return nil }

// load takes an older one away first: launchd reads the file at this moment only.
func (l launchd) load(ctx context.Context) error {
	if err := l.unload(ctx); err != nil {
		return err
	}
	if _, err := run(ctx, "launchctl", "enable", l.target()); err != nil {
		return err
	}
	_, err := run(ctx, "launchctl", "bootstrap", l.domain(), l.file)
	return err
}

// unload has launchd forget the agent: one that is only ended would be started anew.
func (l launchd) unload(ctx context.Context) error {
	if loaded, _, err := l.look(ctx); err != nil || !loaded {
		return err
	}
	_, err := run(ctx, "launchctl", "bootout", l.target())
	return err
}

func (l launchd) start(ctx context.Context) error {
	loaded, running, err := l.look(ctx)
	switch {
	case err != nil || running:
		return err
	case loaded:
		_, err = run(ctx, "launchctl", "kickstart", l.target())
	default:
		_, err = run(ctx, "launchctl", "bootstrap", l.domain(), l.file)
	}
	return err
}

func (l launchd) stop(ctx context.Context) error { return l.unload(ctx) }

func (l launchd) running(ctx context.Context) (bool, error) {
	_, running, err := l.look(ctx)
	return running, err
}

// look asks whether launchd knows the agent, and whether it runs. Of one that it does
// not know launchctl print says so and fails.
func (l launchd) look(ctx context.Context) (loaded, running bool, err error) {
	out, err := run(ctx, "launchctl", "print", l.target())
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && ctx.Err() == nil {
		return false, false, nil
	}
	return err == nil, strings.Contains(out, "\tstate = running\n"), err
}
