package lab

import (
	"fmt"
	"os"
	"strings"
)

// listens reports whether something on the machine has a TCP or UDP port open,
// as the kernel's own tables tell.
func (l *Lab) listens(where, network string, port uint16) (bool, error) {
	found := false
	err := l.in(where, func() error {
		for _, table := range []string{network, network + "6"} {
			text, err := os.ReadFile("/proc/thread-self/net/" + table)
			if err != nil {
				return err
			}
			for _, line := range strings.Split(string(text), "\n")[1:] {
				fields := strings.Fields(line)
				if len(fields) < 4 || !strings.HasSuffix(fields[1], fmt.Sprintf(":%04X", port)) {
					continue
				}
				const listening, unconnected = "0A", "07" // TCP_LISTEN, and what UDP shows
				if fields[3] == listening || fields[3] == unconnected {
					found = true
				}
			}
		}
		return nil
	})
	return found, err
}
