package survey

import (
	"bytes"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// hasIPSet reports whether the kernel has IP sets, built in, loaded or to be loaded.
func hasIPSet() bool {
	if _, err := os.Stat("/sys/module/ip_set"); err == nil {
		return true
	}
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return false
	}
	release := string(bytes.TrimRight(name.Release[:], "\x00"))
	for _, list := range []string{"modules.builtin", "modules.dep"} {
		b, err := os.ReadFile(filepath.Join("/lib/modules", release, list))
		if err == nil && bytes.Contains(b, []byte("/ip_set.ko")) {
			return true
		}
	}
	return false
}
