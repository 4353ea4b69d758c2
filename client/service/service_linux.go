package service

import (
	"fmt"
	"os"
	"path/filepath"
)

// define returns the unit of the user's systemd.
func define(d Definition) (file, error) {
	text, err := d.Systemd()
	if err != nil {
		return file{}, err
	}
	config, err := os.UserConfigDir()
	if err != nil {
		return file{}, fmt.Errorf("find the folder of units: %w", err)
	}
	const unit = Name + ".service"
	ctl := func(args ...string) []string { return append([]string{"systemctl", "--user"}, args...) }
	return file{
		path: filepath.Join(config, "systemd", "user", unit), text: text,
		installed: [][]string{ctl("daemon-reload"), ctl("enable", "--now", unit)},
		removing:  [][]string{ctl("disable", "--now", unit)},
		removed:   [][]string{ctl("daemon-reload")},
		start:     ctl("start", unit), stop: ctl("stop", unit),
		status: ctl("--no-pager", "--lines=5", "status", unit),
	}, nil
}
