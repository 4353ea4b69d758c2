package sshconfig

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Config is what Postern's file says.
type Config struct {
	// Command carries a connection on its standard input and output, with the service's
	// name behind it: see [Command].
	Command string
	// Identity is the folder of the one that Command is bound to, "" for the one in use.
	Identity string
	// Services are to be reached by their bare names; by their full ones, all are.
	Services []string
	// Left are those of Services that are the person's own names.
	Left    []string
	Domain  string // of full names
	Windows bool
}

const head = `# Written by postern ssh-config, and anew when your services change.
# postern ssh-config --uninstall takes the file away.
`

// The lines that Refresh looks for.
const (
	identityLine = "# Identity: "
	servicesLine = "# Services: "
	proxyLine    = "\tProxyCommand "
	inUse        = "the one in use"
)

// String returns the file's text. Hosts' keys are known by services' full names, one
// entry each, whatever port or address a connection comes from.
func (c Config) String() string {
	var b strings.Builder
	b.WriteString(head + identityLine + c.identity() + "\n" + servicesLine + c.names() + "\n")
	for _, s := range c.Services {
		if slices.Contains(c.Left, s) {
			continue
		}
		full := s + "." + c.Domain
		fmt.Fprintf(&b, "\nHost %s %s\n\tHostName %s\n\tHostKeyAlias %s\n", s, full, full, full)
		fmt.Fprintf(&b, "\tCheckHostIP no\n%s%s %s\n", proxyLine, c.Command, s)
	}
	pattern, host := c.any()
	fmt.Fprintf(&b, "\nHost *.%s %s\n\tCheckHostIP no\n%s%s %s\n", c.Domain, pattern, proxyLine, c.Command, host)
	return b.String()
}

func (c Config) identity() string { return cmp.Or(c.Identity, inUse) }

func (c Config) names() string { return strings.Join(slices.Sorted(slices.Values(c.Services)), " ") }

// any returns ssh's token for the host, quoted for the shell that it gets to, and the
// patterns of hosts that would get out of those quotes. A host's name may be anybody's
// choice, such as that of a git submodule, and OpenSSH before 9.6 takes any characters.
func (c Config) any() (patterns, host string) {
	if !c.Windows {
		return `"!*'*"`, "'%h'"
	}
	// In double quotes, $, ` and " mean something to the sh that Git's ssh has there, and
	// % to cmd.exe. The last one is in quotes that OpenSSH before 8.7 does not know: it is
	// lost there, and nothing else is.
	return "!*$* !*`* !*%* " + `'!*"*'`, `"%h"`
}

// Command writes a command line for ssh's ProxyCommand: each word quoted for the shell
// that runs it, and nothing in it taken for one of ssh's tokens.
func Command(words []string, windows bool) string {
	var quoted []string
	for _, word := range words {
		quoted = append(quoted, strings.ReplaceAll(quote(word, windows), "%", "%%"))
	}
	return strings.Join(quoted, " ")
}

// quote makes one word of s. Names that need no quotes get none. On Windows a command is
// run by CreateProcess or, by the ssh that comes with Git, by sh: slashes are good for
// both.
func quote(s string, windows bool) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:=,+@", r)
	}
	if windows {
		s = strings.ReplaceAll(s, `\`, "/")
	}
	switch {
	case s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !plain(r) }):
		return s
	case windows:
		return `"` + s + `"` // a name of a file has no quotes there
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// includeLine is the one line in the person's configuration. path is relative to
// ~/.ssh, or absolute.
func includeLine(path string) string {
	if strings.ContainsAny(path, " \t") {
		path = `"` + path + `"`
	}
	return "Include " + path
}

// Include returns config with the line that includes path in front: further down it
// could be in a section for certain hosts. A configuration that has the line is
// returned as it is.
func Include(config []byte, path string) []byte {
	line := includeLine(path)
	if at, _ := find(config, line); at >= 0 {
		return config
	}
	end := "\n"
	if first, _, found := bytes.Cut(config, []byte("\n")); found && bytes.HasSuffix(first, []byte("\r")) {
		end = "\r\n"
	}
	return slices.Concat([]byte(line+end), config)
}

// Exclude returns config without the line that includes path.
func Exclude(config []byte, path string) []byte {
	at, length := find(config, includeLine(path))
	if at < 0 {
		return config
	}
	return slices.Concat(config[:at], config[at+length:])
}

// find returns where a line is, and how long with its end; -1 when it is not there.
func find(config []byte, line string) (at, length int) {
	for rest := config; len(rest) > 0; {
		n := bytes.IndexByte(rest, '\n') + 1
		if n == 0 {
			n = len(rest)
		}
		if string(bytes.TrimRight(rest[:n], "\r\n")) == line {
			return at, n
		}
		at, rest = at+n, rest[n:]
	}
	return -1, 0
}
