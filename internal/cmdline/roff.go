package cmdline

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/urfave/cli/v2"
)

// The parts of a page in roff. All text of others goes through [roff].

var roffEscapes = strings.NewReplacer(
	`\`, `\e`, `-`, `\-`, `'`, `\(aq`, "`", `\(ga`, `^`, `\(ha`, `~`, `\(ti`,
)

// roff is text as it is, in the middle of a line and at the beginning of one.
func roff(text string) string {
	lines := strings.Split(roffEscapes.Replace(text), "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, ".") {
			lines[i] = `\&` + line
		}
	}
	return strings.Join(lines, "\n")
}

func bold(text string) string { return `\fB` + roff(text) + `\fR` }

func quoted(text string) string { return `"` + strings.ReplaceAll(roff(text), `"`, `\(dq`) + `"` }

// sentence is a usage, which begins in lower case and has no full stop, as one.
func sentence(text string) string {
	first, n := utf8.DecodeRuneInString(text)
	if second, _ := utf8.DecodeRuneInString(text[n:]); unicode.IsLower(first) && !unicode.IsUpper(second) {
		text = string(unicode.ToUpper(first)) + text[n:]
	}
	if text == "" || strings.HasSuffix(text, ".") {
		return text
	}
	return text + "."
}

func opening(page, usage, usageText string) string {
	return ".SH NAME\n" + roff(page) + ` \- ` + roff(usage) + "\n.SH SYNOPSIS\n" + synopsis(usageText)
}

// synopsis is how a command is called. Lines that are continued on the next begin
// with spaces there.
func synopsis(usageText string) string {
	var b strings.Builder
	joined := regexp.MustCompile(`\n\s+`).ReplaceAllString(strings.TrimSpace(usageText), " ")
	for i, line := range strings.Split(joined, "\n") {
		if i > 0 {
			b.WriteString(".br\n")
		}
		b.WriteString(call(line) + "\n")
	}
	return b.String()
}

// part is an option, or a word in capitals, which stands for a value.
var part = regexp.MustCompile(`--?[a-z][a-z0-9-]*|\b[A-Z][A-Z]+\b`)

// call marks up one call of a command: what is typed as it is in bold.
func call(line string) string {
	var b strings.Builder
	words := strings.SplitAfter(line, " ")
	n := slices.IndexFunc(words, func(w string) bool { // the first that is no name of a command
		return strings.HasPrefix(w, "-") || strings.Trim(w, "abcdefghijklmnopqrstuvwxyz- ") != ""
	})
	if n < 0 {
		n = len(words)
	}
	name := strings.Join(words[:n], "")
	b.WriteString(bold(strings.TrimSpace(name)))
	rest := line[len(name):]
	if rest != "" {
		b.WriteString(" ")
	}
	for rest != "" {
		at := part.FindStringIndex(rest)
		if at == nil {
			b.WriteString(roff(rest))
			break
		}
		font := `\fI`
		if rest[at[0]] == '-' {
			font = `\fB`
		}
		b.WriteString(roff(rest[:at[0]]) + font + roff(rest[at[0]:at[1]]) + `\fR`)
		rest = rest[at[1]:]
	}
	return b.String()
}

// paragraphs are a description's: what is indented in it is an example.
func paragraphs(text string) string {
	var b strings.Builder
	inExample, gap := false, false
	example := func(on bool) {
		switch {
		case on && !inExample:
			if b.Len() > 0 {
				b.WriteString(".PP\n")
			}
			b.WriteString(".RS 4\n.EX\n")
		case !on && inExample:
			b.WriteString(".EE\n.RE\n.PP\n") // a paragraph follows
		}
		inExample, gap = on, false
	}
	for line := range strings.Lines(strings.TrimSpace("\n" + text)) {
		line = strings.TrimRight(line, "\n ")
		inner := strings.TrimLeft(line, " ")
		switch {
		case inner == "":
			gap = true
			continue
		case inner != line || strings.HasPrefix(inner, "$ "):
			if gap && inExample {
				b.WriteString("\n")
			}
			example(true)
		case inExample:
			example(false)
		case gap && b.Len() > 0:
			b.WriteString(".PP\n")
		}
		gap = false
		b.WriteString(roff(inner) + "\n")
	}
	if inExample {
		b.WriteString(".EE\n.RE\n")
	}
	return b.String()
}

func item(term, text string) string { return ".TP\n" + term + "\n" + text + "\n" }

func section(title string, entries []Entry) string {
	if len(entries) == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString(".SH " + quoted(title) + "\n")
	for _, e := range entries {
		b.WriteString(item(bold(e.Term), roff(sentence(e.Text))))
	}
	return b.String()
}

func seeAlso(pages []string) string {
	if len(pages) == 0 {
		return ""
	}
	slices.Sort(pages)
	var b strings.Builder
	b.WriteString(".SH \"SEE ALSO\"\n")
	for i, page := range pages {
		name, rest, _ := strings.Cut(page, "(")
		comma := ","
		if i == len(pages)-1 {
			comma = ""
		}
		b.WriteString(".BR " + roff(name) + " (" + rest + comma + "\n")
	}
	return b.String()
}

func options(title string, flags []cli.Flag) string {
	var b strings.Builder
	for _, f := range shown(flags) {
		b.WriteString(flagItem(f))
	}
	if b.Len() == 0 {
		return ".SH " + title + "\n" + item(bold("--help"), "Show the help.")
	}
	return ".SH " + title + "\n" + b.String() + item(bold("--help"), "Show the help.")
}

// shown are the options that the help shows.
func shown(flags []cli.Flag) []cli.DocGenerationFlag {
	var all []cli.DocGenerationFlag
	for _, f := range flags {
		v, can := f.(cli.VisibleFlag)
		d, says := f.(cli.DocGenerationFlag)
		if says && (!can || v.IsVisible()) {
			all = append(all, d)
		}
	}
	return all
}

// placeholder is the name of an option's value, in its usage between backquotes.
var placeholder = regexp.MustCompile("`([^`]*)`")

func flagItem(f cli.DocGenerationFlag) string {
	usage, value := f.GetUsage(), ""
	if m := placeholder.FindStringSubmatch(usage); m != nil {
		value, usage = m[1], strings.Replace(usage, m[0], m[1], 1)
	}
	if f.TakesValue() && value == "" {
		value = "VALUE"
		if _, isDuration := f.(*cli.DurationFlag); isDuration {
			value = "DURATION"
		}
	}
	var names []string
	for _, name := range f.Names() {
		dashes := "--"
		if len(name) == 1 {
			dashes = "-"
		}
		names = append(names, bold(dashes+name))
	}
	term := strings.Join(names, ", ")
	if f.TakesValue() {
		term += ` \fI` + roff(value) + `\fR`
	}
	text := sentence(usage)
	if preset := presetOf(f); preset != "" && !strings.Contains(usage, "(default") {
		text += " Default: " + preset + "."
	}
	if slice, ok := f.(cli.DocGenerationSliceFlag); ok && slice.IsSliceFlag() {
		text += " May be repeated."
	}
	return item(term, roff(text))
}

var wholeUnits = regexp.MustCompile(`^(\d+h|(?:\d+h)?\d+m)(?:0m)?0s$`)

// presetOf is an option's default that is worth a word, "" for none.
func presetOf(f cli.DocGenerationFlag) string {
	preset := strings.Trim(cmp.Or(f.GetDefaultText(), f.GetValue()), `"`)
	if _, isDuration := f.(*cli.DurationFlag); isDuration {
		preset = wholeUnits.ReplaceAllString(preset, "$1") // 5m0s is 5m
	}
	if !f.TakesValue() || slices.Contains([]string{"0", "0s", "[]", "false"}, preset) {
		return ""
	}
	return preset
}

func variables(flags []cli.Flag) []Entry {
	var all []Entry
	for _, f := range shown(flags) {
		for _, name := range f.GetEnvVars() {
			if !slices.ContainsFunc(all, func(e Entry) bool { return e.Term == name }) {
				all = append(all, Entry{name, fmt.Sprintf("as --%s", f.Names()[0])})
			}
		}
	}
	return all
}
