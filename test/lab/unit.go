package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// unit is the [Service] part of a systemd unit, and its conditions: the words of all
// lines of a key.
type unit map[string][]string

// unit reads a unit that is installed on a machine with a file system of its own.
func (l *Lab) unit(where, name string) (unit, error) {
	b, err := os.ReadFile(l.roots[where].path("/usr/lib/systemd/system/" + name))
	if err != nil {
		return nil, err
	}
	u := make(unit)
	for line := range strings.Lines(string(b)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(key, "#") {
			u[key] = append(u[key], strings.Fields(value)...)
		}
	}
	for _, need := range []string{"ExecStart", "User", "Group", "ConditionPathExists", "StateDirectory"} {
		if len(u[need]) == 0 {
			return nil, fmt.Errorf("%s has no %s", name, need)
		}
	}
	return u, nil
}

// serviceManager is what systemd does for a service before it runs the line behind
// ExecStart: its folders, its user and groups, its capabilities. The sandbox around it
// is tested with the command.
const serviceManager = `for d in $FOLDERS; do
	install -d -m "${d%%:*}" "${d#*:}"
	chown -R "$ACCOUNT:$TEAM" "${d#*:}"
done
umask "$MASK"
exec setpriv --reuid "$ACCOUNT" --regid "$TEAM" --groups "$TEAMS" --no-new-privs \
	--inh-caps="$CAPS" --ambient-caps="$CAPS" --bounding-set="$CAPS" sh -c "exec $LINE"`

// service is the command that starts an installed unit. It fails where the unit's
// condition does not hold.
func (l *Lab) service(ctx context.Context, where, name string) (*exec.Cmd, error) {
	u, err := l.unit(where, name)
	if err != nil {
		return nil, err
	}
	for _, path := range u["ConditionPathExists"] {
		if _, err := os.Stat(l.roots[where].path(path)); err != nil {
			return nil, fmt.Errorf("the condition of %s: %w", name, err)
		}
	}
	first := func(key, otherwise string) string {
		if len(u[key]) > 0 {
			return u[key][0]
		}
		return otherwise
	}
	var folders []string
	for key, under := range map[string]string{"StateDirectory": "/var/lib/", "RuntimeDirectory": "/run/"} {
		for _, folder := range u[key] {
			folders = append(folders, first(key+"Mode", "0755")+":"+under+folder)
		}
	}
	caps := "-all"
	for _, c := range u["AmbientCapabilities"] {
		caps += ",+" + strings.ToLower(strings.TrimPrefix(c, "CAP_"))
	}
	cmd := l.roots[where].command(ctx, "sh", "-ec", serviceManager)
	cmd.Env = append(cmd.Env, "FOLDERS="+strings.Join(folders, " "), "ACCOUNT="+u["User"][0], "TEAM="+u["Group"][0],
		"TEAMS="+strings.Join(slices.Concat(u["Group"], u["SupplementaryGroups"]), ","),
		"MASK="+first("UMask", "0022"), "CAPS="+caps, "LINE="+strings.Join(u["ExecStart"], " "))
	return cmd, nil
}

// runUnit runs a unit of Type=oneshot to its end.
func (l *Lab) runUnit(ctx context.Context, where, name string) error {
	cmd, err := l.service(ctx, where, name)
	if err != nil {
		return err
	}
	_, err = l.runCommand(cmd, nil, where)
	return err
}

// startUnit starts a unit's daemon.
func (l *Lab) startUnit(where, name string) (*Process, error) {
	cmd, err := l.service(context.Background(), where, name)
	if err != nil {
		return nil, err
	}
	return l.start(where, strings.TrimSuffix(name, ".service"), cmd)
}
