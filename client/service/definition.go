package service

import (
	"encoding/xml"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// Label is the service's name where names are reversed domains.
const Label = "internal.postern.up"

// Name is the service's name elsewhere.
const Name = "postern"

const description = "Postern: services of yours, reachable on this machine"

// ErrPath is a program that no service can be made of.
var ErrPath = errors.New("a service needs the program's absolute path, without line breaks")

// Definition says what runs.
type Definition struct {
	Program string   // absolute
	Args    []string // "up", and what goes before it
}

func (d Definition) validate() error {
	for _, word := range append([]string{d.Program}, d.Args...) {
		if strings.ContainsAny(word, "\r\n\x00") {
			return ErrPath
		}
	}
	windows := len(d.Program) > 2 && d.Program[1] == ':'
	if !filepath.IsAbs(d.Program) && !windows && !strings.HasPrefix(d.Program, "/") {
		return ErrPath
	}
	return nil
}

// Systemd returns a unit for the user's service manager (systemd.service(5)). What a
// user's manager can deny a service, it is denied.
func (d Definition) Systemd() (string, error) {
	if err := d.validate(); err != nil {
		return "", err
	}
	words := []string{systemdWord(d.Program)}
	for _, a := range d.Args {
		words = append(words, systemdWord(a))
	}
	return fmt.Sprintf(`# Written by postern service install.
[Unit]
Description=%s
Documentation=man:postern(1)
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart=%s
Restart=on-failure
RestartSec=5
UMask=0077
NoNewPrivileges=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
SystemCallFilter=@system-service

[Install]
WantedBy=default.target
`, description, strings.Join(words, " ")), nil
}

// systemdWord quotes one word of a command line (systemd.syntax(7), systemd.service(5)).
func systemdWord(s string) string {
	s = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%", "$", "$$", "\t", `\t`).Replace(s)
	return `"` + s + `"`
}

// Launchd returns an agent's property list (launchd.plist(5)). log is where its
// messages go.
func (d Definition) Launchd(log string) (string, error) {
	if err := d.validate(); err != nil {
		return "", err
	}
	var words strings.Builder
	for _, word := range append([]string{d.Program}, d.Args...) {
		fmt.Fprintf(&words, "\t\t<string>%s</string>\n", xmlText(word))
	}
	return fmt.Sprintf(`<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
	<key>Label</key>
	<string>%s</string>
	<key>ProgramArguments</key>
	<array>
%s	</array>
	<key>RunAtLoad</key>
	<true/>
	<key>KeepAlive</key>
	<dict>
		<key>SuccessfulExit</key>
		<false/>
	</dict>
	<key>ThrottleInterval</key>
	<integer>5</integer>
	<key>Umask</key>
	<integer>63</integer>
	<key>StandardErrorPath</key>
	<string>%s</string>
</dict>
</plist>
`, Label, words.String(), xmlText(log)), nil
}

func xmlText(s string) string {
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(s)) // a Builder takes everything
	return b.String()
}
