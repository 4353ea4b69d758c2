package service

import (
	"context"
	"fmt"
	"strings"
)

const unitName = "postern.service"

// unit is the file of systemd's user manager. Its sandbox is what works without
// namespaces of its own, which many systems refuse to users.
const unit = `# Keeps the services that this device may reach reachable, for one user.
[Unit]
Description=Postern: this device's services, within reach
Documentation=https://github.com/postern-sdp/postern
CONDITION# It comes back for ever: networks do so, too.
StartLimitIntervalSec=0

[Service]
ExecStart=COMMAND
Restart=on-failure
RestartSec=5
# A wrong command line and a device that is not enrolled stay so; 143 is SIGTERM's.
RestartPreventExitStatus=2 5
SuccessExitStatus=143
TimeoutStopSec=15

NoNewPrivileges=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_NETLINK AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
UMask=0077
LimitCORE=0

[Install]
WantedBy=default.target
`

// Unit returns the unit for spec. With a condition, a path in which systemd's
// specifiers count, it starts only where that exists. It is [ErrText] when systemd
// would refuse the program's path, which it does for quotes and backslashes.
func Unit(spec Spec, condition string) (string, error) {
	if strings.ContainsAny(spec.Program, `"'\`) {
		return "", fmt.Errorf("%q %w", spec.Program, ErrText)
	}
	// $ is special in arguments only, and there is no way to write it twice in the path.
	words := []string{quoteUnit(spec.Program)}
	for _, arg := range spec.Args {
		words = append(words, strings.ReplaceAll(quoteUnit(arg), "$", "$$"))
	}
	if condition != "" {
		condition = "ConditionPathExists=" + condition + "\n"
	}
	return strings.NewReplacer("CONDITION", condition, "COMMAND", strings.Join(words, " ")).Replace(unit), nil
}

// quoteUnit quotes one word of a command line as systemd.service(5) reads it.
func quoteUnit(word string) string {
	quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%").Replace(word)
	if quoted != word || word == "" || strings.ContainsAny(word, " ';#$") {
		return `"` + quoted + `"`
	}
	return word
}

// systemd is the user manager of Linux.
type systemd struct{ file string }

func (s systemd) state() State {
	return State{Installed: exists(s.file), Manager: "systemd", Name: unitName, File: s.file}
}

func (s systemd) text(spec Spec) (string, error) { return Unit(spec, "") }
func (s systemd) encode(text string) []byte      { return []byte(text) }

func (s systemd) load(ctx context.Context) error {
	for _, args := range [][]string{{"daemon-reload"}, {"enable", unitName}, {"restart", unitName}} {
		if err := s.systemctl(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

func (s systemd) unload(ctx context.Context) error {
	return s.systemctl(ctx, "disable", "--now", unitName)
}
func (s systemd) forget(ctx context.Context) error { return s.systemctl(ctx, "daemon-reload") }
func (s systemd) start(ctx context.Context) error  { return s.systemctl(ctx, "start", unitName) }
func (s systemd) stop(ctx context.Context) error   { return s.systemctl(ctx, "stop", unitName) }

func (s systemd) running(ctx context.Context) (bool, error) {
	out, err := run(ctx, "systemctl", "--user", "show", "--property=ActiveState", "--value", unitName)
	return strings.TrimSpace(out) == "active", err
}

func (s systemd) systemctl(ctx context.Context, args ...string) error {
	_, err := run(ctx, "systemctl", append([]string{"--user"}, args...)...)
	return err
}
