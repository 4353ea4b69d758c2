package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// maxSize bounds a configuration file, in bytes.
const maxSize = 1 << 20

const (
	maxFaults = 50 // that are reported
	maxDepth  = 16 // of tables; nothing of ours is deeper
)

// Errors of files that no administrator wrote by hand.
var (
	ErrSize       = errors.New("larger than 1 MiB")
	ErrNotRegular = errors.New("not a regular file")
	ErrMore       = errors.New("and more of the kind")
)

// Load decodes the file at path into the struct that into points to. Fields that
// the file does not set keep their values, so defaults go in before. On an error
// the struct must not be used.
func Load(path string, into any) error {
	text, err := Read(path)
	if err != nil {
		return err
	}
	return Parse(path, text, into)
}

// Read returns the file's text. It does not wait on a pipe, and reads no more
// than a configuration can have.
func Read(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("read configuration: %w", err)
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("read configuration %s: %w", path, ErrNotRegular)
	}
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("read configuration: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err != nil {
		return "", fmt.Errorf("read configuration: %w", err)
	}
	if len(text) > maxSize {
		return "", fmt.Errorf("read configuration %s: %w", path, ErrSize)
	}
	return string(text), nil
}

// Parse is Load for a text that was read already; path is for the messages.
func Parse(path, text string, into any) error {
	meta, err := toml.Decode(text, into)
	if err != nil {
		return locate(path, err)
	}
	var faults []error
	var places map[string][]place
	seen := make(map[string]bool)
	for _, k := range meta.Keys() {
		// The decoder lets NAME pass for name; here each key has one spelling.
		k, known, ok := unknown(reflect.TypeOf(into), k)
		if !ok || seen[k.String()] {
			continue
		}
		seen[k.String()] = true
		if places == nil {
			places = byPath(text)
		}
		faults = append(faults, unknownKey(path, places, k, known)...)
		if len(faults) > maxFaults {
			faults = append(faults[:maxFaults], fmt.Errorf("%s: %w", path, ErrMore))
			break
		}
	}
	return errors.Join(faults...)
}

// Lines returns the line of each place in text, which Parse has accepted, where
// the table or key of that dotted name is written.
func Lines(text, name string) []int {
	var lines []int
	for _, p := range scan(text) {
		if p.path == name {
			lines = append(lines, p.line)
		}
	}
	return lines
}

func locate(path string, err error) error {
	var parse toml.ParseError
	if !errors.As(err, &parse) {
		return locateText(path, err.Error())
	}
	message := parse.Message
	if parse.LastKey != "" {
		message = parse.LastKey + ": " + message
	}
	return fmt.Errorf("%s:%d:%d: %s", path, parse.Position.Line, parse.Position.Col, message)
}

// locateText reads the place out of the message, where the decoder keeps it for
// values of a wrong type.
func locateText(path, message string) error {
	var line int
	var name string
	message = strings.TrimPrefix(message, "toml: ")
	n, _ := fmt.Sscanf(message, "line %d (last key %q)", &line, &name)
	_, rest, found := strings.Cut(message, "): ")
	if n != 2 || !found {
		return fmt.Errorf("%s: %s", path, message)
	}
	return fmt.Errorf("%s:%d:1: %s: %s", path, line, name, rest)
}

// byPath returns the places of all keys, and for a table that only its own tables
// mention ([a.b]) the first of these.
func byPath(text string) map[string][]place {
	places := make(map[string][]place)
	all := scan(text)
	for _, p := range all {
		places[p.path] = append(places[p.path], p)
	}
	for _, p := range all {
		parent := p.path
		for range maxDepth {
			i := strings.LastIndexByte(parent, '.')
			if i < 0 {
				break
			}
			if parent = parent[:i]; places[parent] == nil {
				places[parent] = []place{p}
			}
		}
	}
	return places
}

// unknownKey returns one error for each place where k is written.
func unknownKey(path string, places map[string][]place, k toml.Key, known []string) []error {
	var faults []error
	hint := ""
	if near := closest(k[len(k)-1], known); near != "" {
		hint = fmt.Sprintf(", did you mean %q?", near)
	}
	at := places[dotted(k)]
	if len(at) == 0 {
		at = []place{{line: 1, column: 1}} // a key with an escape in its quotes
	}
	for _, p := range at {
		faults = append(faults, fmt.Errorf("%s:%d:%d: unknown key %q%s (known here: %s)",
			path, p.line, p.column, k.String(), hint, strings.Join(known, ", ")))
	}
	return faults
}

// unknown returns the first part of path that names nothing in t, and what could
// stand in its place.
func unknown(t reflect.Type, path toml.Key) (part toml.Key, known []string, is bool) {
	for i, name := range path {
		for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Array {
			t = t.Elem()
		}
		if t.Kind() != reflect.Struct {
			return nil, nil, false // a map, whose keys are the administrator's
		}
		known, next := keys(t), reflect.Type(nil)
		for f := range t.Fields() {
			if keyName(f) == name && name != "" {
				next = f.Type
			}
		}
		if next == nil {
			return path[:i+1], known, true
		}
		t = next
	}
	return nil, nil, false
}

// keys lists the keys of the table that t stands for.
func keys(t reflect.Type) []string {
	var names []string
	for f := range t.Fields() {
		if name := keyName(f); name != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func keyName(f reflect.StructField) string {
	tag, _, _ := strings.Cut(f.Tag.Get("toml"), ",")
	switch {
	case !f.IsExported() || tag == "-":
		return ""
	case tag != "":
		return tag
	}
	return f.Name
}

// closest returns the known key that is at most two edits away, if there is one.
func closest(name string, known []string) string {
	best, near := 3, ""
	for _, k := range known {
		if len(name) > len(k)+best {
			continue // cannot be near, and might be long
		}
		if d := distance(name, k); d < best {
			best, near = d, k
		}
	}
	return near
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		previous := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := previous
			if a[i] != b[j] {
				cost++
			}
			previous = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
