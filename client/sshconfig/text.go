package sshconfig

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// Config is what Postern's file says.
type Config struct {
	// Command is the program with its arguments that carries a connection on its
	// standard input and output. The service's name is put behind it.
	Command []string
	// Services are to be reached by their bare names; by their full ones, all are.
	Services []string
	Domain   string // of full names
	Windows  bool   // commands are read by cmd.exe, not by a shell
}

const head = `# Written by postern ssh-config. Changes are lost with the next --install;
# postern ssh-config --uninstall takes the file away.
`

// String returns the file's text. Hosts' keys are known by services' full names, one
// entry each, whatever port or address a connection comes from.
func (c Config) String() string {
	var b strings.Builder
	b.WriteString(head)
	for _, s := range c.Services {
		full := s + "." + c.Domain
		fmt.Fprintf(&b, "\nHost %s %s\n\tHostName %s\n\tHostKeyAlias %s\n", s, full, full, full)
		fmt.Fprintf(&b, "\tCheckHostIP no\n\tProxyCommand %s\n", c.proxy(s))
	}
	fmt.Fprintf(&b, "\nHost *.%s\n\tCheckHostIP no\n\tProxyCommand %s\n", c.Domain, c.proxy("%h"))
	return b.String()
}

// proxy is the value of ProxyCommand. service may be a token of ssh's.
func (c Config) proxy(service string) string { return Proxy(c.Command, service, c.Windows) }

// Proxy writes a command line for ssh's ProxyCommand: each word quoted for the shell
// that runs it, and nothing in it taken for one of ssh's tokens. service is put
// behind as it is.
func Proxy(command []string, service string, windows bool) string {
	var words []string
	for _, word := range command {
		words = append(words, strings.ReplaceAll(quote(word, windows), "%", "%%"))
	}
	return strings.Join(append(words, service), " ")
}

// quote makes one word of s. Names that need no quotes get none.
func quote(s string, windows bool) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:=,+@", r) ||
			windows && r == '\\'
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

// Taken returns those of the names that config has a section of its own for: it is
// the person's choice what they mean.
func Taken(config []byte, names []string) []string {
	var taken []string
	for line := range bytes.Lines(config) {
		words := strings.FieldsFunc(string(line), func(r rune) bool { return strings.ContainsRune(" \t\r\n=\"", r) })
		if len(words) == 0 || !strings.EqualFold(words[0], "host") {
			continue
		}
		for _, w := range words[1:] {
			if slices.Contains(names, w) && !slices.Contains(taken, w) {
				taken = append(taken, w)
			}
		}
	}
	return taken
}
