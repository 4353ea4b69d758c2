package spa

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// rules returns the numbered rules of docs/PROTOCOL.md and their text.
func rules(t *testing.T) map[string]string {
	t.Helper()
	page, err := os.ReadFile("../docs/PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]string)
	numbered := regexp.MustCompile(`(?m)^- \*\*(\d+\.\d+)\*\* (.*(?:\n  .*)*)`)
	rest := numbered.ReplaceAllStringFunc(string(page), func(rule string) string {
		m := numbered.FindStringSubmatch(rule)
		if !strings.Contains(m[2], "MUST") {
			t.Errorf("rule %s says nowhere MUST", m[1])
		}
		found[m[1]] = m[2]
		return ""
	})
	if strings.Contains(rest, "MUST") {
		t.Error("docs/PROTOCOL.md has a MUST outside of a numbered rule")
	}
	if len(found) < 20 {
		t.Fatalf("found only %d rules", len(found))
	}
	return found
}

// cited returns which rules the files cite, and where first.
func cited(t *testing.T, root string, use func(path string) bool) map[string]string {
	t.Helper()
	cite := regexp.MustCompile(`PROTOCOL (\d+\.\d+)`)
	where := make(map[string]string)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !use(path) {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range cite.FindAllStringSubmatch(string(text), -1) {
			if where[m[1]] == "" {
				where[m[1]] = path
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return where
}

func TestEveryRuleOfTheProtocolIsCitedWhereItIsKept(t *testing.T) {
	rules := rules(t)
	code := cited(t, "..", func(path string) bool {
		return strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go")
	})
	for rule, path := range code {
		if rules[rule] == "" {
			t.Errorf("%s cites rule %s, which docs/PROTOCOL.md does not have", path, rule)
		}
	}
	for rule := range rules {
		if code[rule] == "" {
			t.Errorf("rule %s of docs/PROTOCOL.md is cited nowhere in the code", rule)
		}
	}
}

// TestEveryRuleOfThePacketIsTested wants a vector or a test for each rule that this
// folder keeps.
func TestEveryRuleOfThePacketIsTested(t *testing.T) {
	rules := rules(t)
	tested := cited(t, ".", func(path string) bool { return strings.HasSuffix(path, "_test.go") })
	for _, v := range loadVectors(t) {
		if rules[v.headers["rule"]] == "" {
			t.Errorf("%s shows rule %q, which docs/PROTOCOL.md does not have", v.name, v.headers["rule"])
		}
		tested[v.headers["rule"]] = v.name
	}
	kept := cited(t, ".", func(path string) bool {
		return strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go")
	})
	for rule, path := range kept {
		if tested[rule] == "" {
			t.Errorf("rule %s, kept in %s, has neither a vector nor a test that cites it", rule, path)
		}
	}
}

// TestThePackageCommentTellsTheLayout takes doc.go's tables apart and compares them
// with the constants.
func TestThePackageCommentTellsTheLayout(t *testing.T) {
	text, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	type field struct {
		name         string
		offset, size int
	}
	want := map[string][]field{
		"knock": {{"hint", 0, hintSize}, {"ephemeral", 8, ephemeralSize}, {"body", 40, knockBodySize},
			{"mac", authenticated, macSize}},
		"host knock": {{"hint", 0, hintSize}, {"nonce", 8, nonceSize}, {"body", 32, hostBodySize},
			{"mac", authenticated, macSize}},
		"emergency": {{"hint", 0, hintSize}, {"nonce", 8, nonceSize}, {"body", 32, hostBodySize},
			{"mac", authenticated, macSize}},
		"reply": {{"body", 0, replyPlainSize + tagSize}},
	}
	head := regexp.MustCompile(`^//\t(\S.*\S) +offset size$`)
	row := regexp.MustCompile(`^//\t(\S+) +(\d+) +(\d+)  \S`)
	got := make(map[string][]field)
	table := ""
	for _, line := range strings.Split(string(text), "\n") {
		if m := head.FindStringSubmatch(line); m != nil {
			table = m[1]
		} else if m := row.FindStringSubmatch(line); m != nil {
			offset, err1 := strconv.Atoi(m[2])
			size, err2 := strconv.Atoi(m[3])
			if err1 != nil || err2 != nil {
				t.Fatalf("row %q", line)
			}
			got[table] = append(got[table], field{m[1], offset, size})
		}
	}
	for name, fields := range want {
		if len(got[name]) != len(fields) {
			t.Fatalf("doc.go's table %q has %d rows, want %d", name, len(got[name]), len(fields))
		}
		end := 0
		for i, f := range got[name] {
			if f != fields[i] || f.offset != end {
				t.Errorf("%s: doc.go says %v, the code %v, and the row before ends at %d",
					name, f, fields[i], end)
			}
			end = f.offset + f.size
		}
		if end != Size {
			t.Errorf("%s: doc.go's rows end at %d, want %d", name, end, Size)
		}
	}
}
