package survey

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strings"
)

// savedFiles are those that Debian's and Red Hat's services restore rules and sets from
// when the machine boots.
func savedFiles() []string {
	return []string{
		"etc/iptables/rules.v4", "etc/iptables/rules.v6", "etc/iptables/ipsets",
		"etc/sysconfig/iptables", "etc/sysconfig/ip6tables", "etc/sysconfig/ipset",
		"etc/nftables.conf", "etc/sysconfig/nftables.conf",
	}
}

// Saved lists the files, by their paths in root, that would restore rules or sets of
// Postern's of that name at boot. Those that are not there hold nothing.
func Saved(root fs.FS, name string) ([]string, error) {
	ours, err := regexp.Compile(fmt.Sprintf(
		`(?m)^\s*(:%[1]s-|-A %[1]s-|(create|add) %[2]s-|table inet %[2]s\s*\{|chain %[1]s-)`,
		regexp.QuoteMeta(strings.ToUpper(name)), regexp.QuoteMeta(name)))
	if err != nil {
		return nil, fmt.Errorf("saved rules: %w", err)
	}
	var found []string
	for _, file := range savedFiles() {
		text, err := fs.ReadFile(root, file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("saved rules: %w", err)
		}
		if ours.Match(text) {
			found = append(found, file)
		}
	}
	return found, nil
}
