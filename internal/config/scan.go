package config

import (
	"strings"
	"unicode/utf8"
)

// place is where a key or a table's head is written.
type place struct {
	path         string // dotted
	line, column int    // from 1; columns count characters
}

// dotted is a key's path as places have it.
func dotted(parts []string) string { return strings.Join(parts, ".") }

// scan finds the places of all keys, in the order of the text. The decoder knows
// them but does not tell. The text is one that the decoder has accepted.
func scan(text string) []place {
	s := &scanner{text: text}
	var table []string
	for s.space(true); s.at < len(s.text); s.space(true) {
		before := s.at
		if s.peek() == '[' {
			start := s.at
			s.at += len(s.text[s.at:]) - len(strings.TrimLeft(s.text[s.at:], "["))
			table = s.key()
			s.found(table, start)
			s.skip("] \t")
		} else {
			s.assignment(table)
		}
		if s.at == before {
			s.at++ // nothing that TOML has: go on
		}
	}
	return s.places
}

type scanner struct {
	text   string
	at     int
	places []place
	// line and start are those of the last place found, and where its line starts.
	line, start, last int
}

func (s *scanner) peek() byte {
	if s.at < len(s.text) {
		return s.text[s.at]
	}
	return 0
}

func (s *scanner) skip(set string) {
	for s.at < len(s.text) && strings.IndexByte(set, s.text[s.at]) >= 0 {
		s.at++
	}
}

// space skips blanks and, with lines, line ends and comments.
func (s *scanner) space(lines bool) {
	s.skip(" \t")
	for lines && (s.peek() == '\n' || s.peek() == '\r' || s.peek() == '#') {
		if s.peek() == '#' {
			s.until("\n")
		}
		s.skip(" \t\r\n")
	}
}

// until goes to the first of the bytes in set, or to the end.
func (s *scanner) until(set string) {
	if n := strings.IndexAny(s.text[s.at:], set); n >= 0 {
		s.at += n
	} else {
		s.at = len(s.text)
	}
}

// found notes a place; at never goes back.
func (s *scanner) found(path []string, at int) {
	between := s.text[s.last:at]
	s.line += strings.Count(between, "\n")
	if n := strings.LastIndexByte(between, '\n'); n >= 0 {
		s.start = s.last + n + 1
	}
	s.last = at
	s.places = append(s.places, place{
		dotted(path), s.line + 1, utf8.RuneCountInString(s.text[s.start:at]) + 1,
	})
}

// key reads a dotted key, quoted parts included.
func (s *scanner) key() (parts []string) {
	for {
		s.space(false)
		start := s.at
		if c := s.peek(); c == '"' || c == '\'' {
			s.quoted()
			parts = append(parts, s.text[min(start+1, s.at):max(start+1, s.at-1)])
		} else {
			s.until(" \t.=]\r\n")
			parts = append(parts, s.text[start:s.at])
		}
		s.space(false)
		if s.peek() != '.' {
			return parts
		}
		s.at++
	}
}

func (s *scanner) assignment(table []string) {
	start := s.at
	path := append(table[:len(table):len(table)], s.key()...)
	s.found(path, start)
	s.skip(" \t=")
	s.value(path)
}

// value skips a value, and finds the keys of inline tables in it.
func (s *scanner) value(path []string) {
	switch s.peek() {
	case '"', '\'':
		s.quoted()
	case '[', '{':
		inline, end := s.peek() == '{', byte(']')
		if inline {
			end = '}'
		}
		s.at++
		for s.space(true); s.at < len(s.text) && s.peek() != end; s.space(true) {
			before := s.at
			if s.peek() == ',' {
				s.at++
			} else if inline {
				s.assignment(path)
			} else {
				s.value(path)
			}
			if s.at == before {
				s.at++
			}
		}
		s.at = min(s.at+1, len(s.text))
	default:
		s.until(",]}#\n")
	}
}

// quoted skips a string of any of the four kinds.
func (s *scanner) quoted() {
	quote := s.text[s.at : s.at+1]
	if long := strings.Repeat(quote, 3); strings.HasPrefix(s.text[s.at:], long) {
		quote = long
	}
	s.at += len(quote)
	for s.at < len(s.text) {
		switch {
		case s.peek() == '\\' && quote[0] == '"':
			s.at = min(s.at+2, len(s.text))
		case strings.HasPrefix(s.text[s.at:], quote):
			s.at += len(quote)
			s.skip(quote[:1]) // up to two quotes may stand before the closing ones
			return
		default:
			s.at++
		}
	}
}
