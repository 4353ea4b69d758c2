package sshconfig

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// maxAsking bounds what a person's configuration may take to be read: it may run
// programs.
const maxAsking = 10 * time.Second

// taken returns those of the names that are the person's already: for which ssh, with
// the configuration but without our file, would do something else than for a name that
// nobody has heard of. So a section in an included file counts, one for "web*", and a
// Match; "Host *" does not. Without an ssh that can be asked, sections of the
// configuration itself count.
func (f Files) taken(ctx context.Context, config []byte, names []string) []string {
	if len(names) == 0 {
		return nil
	}
	config = Exclude(config, f.include())
	ctx, cancel := context.WithTimeout(ctx, maxAsking)
	defer cancel()
	taken, err := f.ask(ctx, config, names)
	if err != nil {
		return sections(config, names)
	}
	return taken
}

func (f Files) ask(ctx context.Context, config []byte, names []string) ([]string, error) {
	file, err := os.CreateTemp("", "postern-ssh-config-")
	if err != nil {
		return nil, fmt.Errorf("ask ssh what names are: %w", err)
	}
	defer os.Remove(file.Name())
	_, err = file.Write(append(slices.Clone(config), f.systems()...))
	if closed := file.Close(); err != nil || closed != nil {
		return nil, fmt.Errorf("ask ssh what names are: %w", err)
	}
	var taken []string
	strangers := make(map[int]stranger) // per number of dots, as patterns may count them
	for _, name := range names {
		dots := strings.Count(name, ".")
		unknown, found := strangers[dots]
		if !found {
			if unknown, err = meet(ctx, file.Name(), strings.Repeat(".x", dots)); err != nil {
				return nil, err
			}
			strangers[dots] = unknown
		}
		told, err := settings(ctx, file.Name(), name)
		if err != nil {
			return nil, err
		}
		if !unknown.like(name, told) {
			taken = append(taken, name)
		}
	}
	return taken, nil
}

// systems is what ssh reads behind the person's configuration, where that is the usual one.
func (f Files) systems() string {
	if d, err := Default(); err != nil || d != f {
		return ""
	}
	return "\nMatch all\nInclude /etc/ssh/ssh_config\n"
}

// stranger is what ssh does for a name that nobody has heard of.
type stranger struct {
	name  string
	told  []string
	vague map[string]bool // keywords whose values are other ones for each name
}

func meet(ctx context.Context, file, suffix string) (stranger, error) {
	s := stranger{name: "posternstranger" + suffix, vague: make(map[string]bool)}
	other := "posternunknown" + suffix
	var err error
	if s.told, err = settings(ctx, file, s.name); err != nil {
		return s, err
	}
	told, err := settings(ctx, file, other)
	if err != nil {
		return s, err
	}
	expected := s.as(other)
	for _, line := range slices.Concat(expected, told) {
		if !slices.Contains(expected, line) || !slices.Contains(told, line) {
			s.vague[keyword(line)] = true
		}
	}
	return s, nil
}

// as is what would be told of a name that is as unknown.
func (s stranger) as(name string) []string {
	var told []string
	for _, line := range s.told {
		told = append(told, strings.ReplaceAll(line, s.name, name))
	}
	return told
}

// like reports whether what is told of a name is what any unknown one gets.
func (s stranger) like(name string, told []string) bool {
	vague := func(line string) bool { return s.vague[keyword(line)] }
	return slices.Equal(slices.DeleteFunc(s.as(name), vague), slices.DeleteFunc(told, vague))
}

func keyword(line string) string {
	word, _, _ := strings.Cut(line, " ")
	return word
}

// settings are ssh's for a host, line by line.
func settings(ctx context.Context, file, host string) ([]string, error) {
	out, err := exec.CommandContext(ctx, "ssh", "-G", "-F", file, "--", host).Output()
	if err != nil {
		return nil, fmt.Errorf("ask ssh what %s is: %w", host, err)
	}
	return strings.Split(string(out), "\n"), nil
}

// sections returns those of the names that config has a section of its own for.
func sections(config []byte, names []string) []string {
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
