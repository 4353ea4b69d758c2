package spa

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestEveryRuleOfTheProtocolIsCitedWhereItIsKept reads docs/PROTOCOL.md and the code.
func TestEveryRuleOfTheProtocolIsCitedWhereItIsKept(t *testing.T) {
	page, err := os.ReadFile("../docs/PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	rules := make(map[string]bool)
	for _, m := range regexp.MustCompile(`(?m)^- \*\*(\d+\.\d+)\*\*.*MUST`).FindAllStringSubmatch(string(page), -1) {
		rules[m[1]] = false
	}
	if len(rules) < 20 {
		t.Fatalf("found only %d rules", len(rules))
	}
	cite := regexp.MustCompile(`PROTOCOL (\d+\.\d+)`)
	err = filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		text, err := os.ReadFile(path)
		for _, m := range cite.FindAllStringSubmatch(string(text), -1) {
			if _, ok := rules[m[1]]; !ok {
				t.Errorf("%s cites rule %s, which docs/PROTOCOL.md does not have", path, m[1])
			}
			rules[m[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for rule, cited := range rules {
		if !cited {
			t.Errorf("rule %s of docs/PROTOCOL.md is cited nowhere in the code", rule)
		}
	}
}

// TestThePackageCommentTellsTheLayout compares doc.go's tables with the constants.
func TestThePackageCommentTellsTheLayout(t *testing.T) {
	text, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"hint              0    8  ", "ephemeral         8   32  ", "body             40  184  ", "mac             224   32  ",
		"nonce             8   24  ", "body             32  192  ", "body              0  256  ",
	} {
		if !strings.Contains(string(text), "//\t"+want) {
			t.Errorf("doc.go lacks the row %q", want)
		}
	}
	sums := []int{hintSize, hintSize + ephemeralSize, hintSize + ephemeralSize + knockBodySize,
		hintSize + nonceSize, hintSize + nonceSize + hostBodySize}
	for i, want := range []int{8, 40, 224, 32, 224} {
		if sums[i] != want {
			t.Errorf("offset %d is %d in the code, %d in the comment", i, sums[i], want)
		}
	}
}
