package service

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// define returns the agent of launchd's.
func define(d Definition) (file, error) {
	home, err := os.UserHomeDir()
	if err != nil {
		return file{}, fmt.Errorf("find the folder of agents: %w", err)
	}
	text, err := d.Launchd(filepath.Join(home, "Library", "Logs", "postern.log"))
	if err != nil {
		return file{}, err
	}
	domain := "gui/" + strconv.Itoa(os.Getuid())
	target := domain + "/" + Label
	path := filepath.Join(home, "Library", "LaunchAgents", Label+".plist")
	return file{
		path: path, text: text,
		installed: [][]string{{"launchctl", "bootstrap", domain, path}},
		removing:  [][]string{{"launchctl", "bootout", target}},
		start:     []string{"launchctl", "kickstart", target},
		stop:      []string{"launchctl", "kill", "SIGTERM", target},
		status:    []string{"launchctl", "print", target},
	}, nil
}
