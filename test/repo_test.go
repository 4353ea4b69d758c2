// Package test checks the repository as a whole: the laws of
// docs/ARCHITECTURE.md that no single package can keep by itself.
package test

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/format"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/postern-sdp/postern"

// pkg is what `go list` tells about one package of this module.
type pkg struct {
	ImportPath string
	Dir        string
	Name       string
	GoFiles    []string
	Imports    []string
}

func packages(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,Name,GoFiles,Imports", "./...")
	cmd.Dir = ".."
	var talk bytes.Buffer
	cmd.Stderr = &talk
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v: %s", err, talk.String())
	}
	var all []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("go list: %v", err)
		}
		all = append(all, p)
	}
	if len(all) < 10 {
		t.Fatalf("go list found only %d packages", len(all))
	}
	return all
}

// ours returns the folder of an import inside the module: "spa/key" for
// github.com/postern-sdp/postern/spa/key, "" for a foreign package.
func ours(importPath string) string {
	folder, ok := strings.CutPrefix(importPath, module+"/")
	if !ok {
		return ""
	}
	return folder
}

func under(folder string, roots ...string) bool {
	return slices.ContainsFunc(roots, func(root string) bool {
		return folder == root || strings.HasPrefix(folder, root+"/")
	})
}

// TestImportsGoDown is the import law: cmd → controller | host | client →
// internal → spa, firewall; never back, never sideways.
func TestImportsGoDown(t *testing.T) {
	allowed := map[string][]string{
		"spa":        {"spa"},
		"firewall":   {"firewall", "internal/testkit"},
		"internal":   {"internal", "spa", "firewall"},
		"controller": {"controller", "internal", "spa", "firewall"},
		"host":       {"host", "internal", "spa", "firewall"},
		"client":     {"client", "internal", "spa"},
		"cmd":        {"cmd", "controller", "host", "client", "internal", "spa", "firewall", "test/lab"},
		"test":       {"test", "controller", "host", "client", "internal", "spa", "firewall"},
	}
	for _, p := range packages(t) {
		folder := ours(p.ImportPath)
		top, _, _ := strings.Cut(folder, "/")
		roots, known := allowed[top]
		if !known {
			t.Errorf("%s: no such top-level folder in docs/ARCHITECTURE.md", p.ImportPath)
			continue
		}
		for _, imported := range p.Imports {
			if to := ours(imported); to != "" && !under(to, roots...) {
				t.Errorf("%s imports %s: the import law allows it only %v", folder, to, roots)
			}
		}
	}
}

// TestThePacketIsPure keeps spa and spa/key fit to be used by a stranger: bytes
// and time go in, a value comes out.
func TestThePacketIsPure(t *testing.T) {
	forbidden := []string{"net", "os", "log", "log/slog", "context", "syscall"}
	for _, p := range packages(t) {
		folder := ours(p.ImportPath)
		if folder != "spa" && folder != "spa/key" {
			continue
		}
		for _, imported := range p.Imports {
			foreign := strings.Contains(imported, ".") && ours(imported) == "" &&
				!strings.HasPrefix(imported, "golang.org/x/crypto/")
			if slices.Contains(forbidden, imported) || foreign {
				t.Errorf("%s imports %s", folder, imported)
			}
		}
	}
}

// TestEachModuleHasItsImporters keeps the replacing of a library a change in one place.
func TestEachModuleHasItsImporters(t *testing.T) {
	importers := map[string][]string{
		"github.com/google/gopacket":     {"spa/listen"},
		"github.com/google/nftables":     {"firewall/nft", "firewall/survey", "test/lab"},
		"github.com/BurntSushi/toml":     {"internal/config"},
		"go.etcd.io/bbolt":               {"controller/store/bolt"},
		"github.com/urfave/cli/v2":       {"cmd", "internal/cmdline"},
		"github.com/quic-go/quic-go":     {"internal/tunnel", "internal/control", "controller/api"},
		"github.com/vishvananda/netns":   {"internal/testkit", "test/lab"},
		"github.com/vishvananda/netlink": {"firewall/iptables", "internal/testkit", "test/lab"},
		"github.com/coreos/go-iptables":  {"firewall/iptables"},
		"github.com/coreos/go-systemd":   {"internal/daemon"},
		"github.com/prometheus":          {"host/metrics"},
		"github.com/miekg/dns":           {"client/names"},
		"golang.org/x/term":              {"cmd/postern"},
		"rsc.io/qr":                      {"internal/qrcode"},
	}
	for _, p := range packages(t) {
		for _, imported := range p.Imports {
			for library, folders := range importers {
				if under(imported, library) && !under(ours(p.ImportPath), folders...) {
					t.Errorf("%s imports %s, which belongs to %v", ours(p.ImportPath), imported, folders)
				}
			}
		}
	}
}

func TestEachPackageHasOneComment(t *testing.T) {
	for _, p := range packages(t) {
		var with []string
		for _, name := range p.GoFiles {
			path := filepath.Join(p.Dir, name)
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			if f.Doc != nil {
				with = append(with, name)
			}
		}
		if len(p.GoFiles) > 0 && len(with) != 1 {
			t.Errorf("%s has %d package comments (%v), want one", p.ImportPath, len(with), with)
		}
	}
}

// goFiles calls check with each Go file of the tree.
func goFiles(t *testing.T, check func(path string, text []byte)) {
	t.Helper()
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && d.Name() == ".git" {
			return fs.SkipDir
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		check(path, text)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestEachFileIsFormatted(t *testing.T) {
	goFiles(t, func(path string, text []byte) {
		formatted, err := format.Source(text)
		if err != nil {
			t.Errorf("%s: %v", path, err)
		} else if !bytes.Equal(formatted, text) {
			t.Errorf("%s: run gofmt -w on it", path)
		}
	})
}

func TestNoFileOutgrowsItsReader(t *testing.T) {
	const hardStop = 700 // lines, see docs/ARCHITECTURE.md
	goFiles(t, func(path string, text []byte) {
		if n := bytes.Count(text, []byte("\n")); n > hardStop && !strings.HasSuffix(path, "_test.go") {
			t.Errorf("%s has %d lines: split it", path, n)
		}
	})
}

// TestNothingStartsByItself keeps effects out of imports, and exits, signals
// and flags in cmd.
func TestNothingStartsByItself(t *testing.T) {
	goFiles(t, func(path string, text []byte) {
		if bytes.Contains(text, []byte("\nfunc "+"init()")) {
			t.Errorf("%s has an init function", path)
		}
		if strings.HasPrefix(path, filepath.Join("..", "cmd")) || strings.HasSuffix(path, "_test.go") {
			return
		}
		for _, call := range []string{"os.Exit(", "log.Fatal", "signal.Notify"} {
			if bytes.Contains(text, []byte(call)) {
				t.Errorf("%s calls %s outside cmd", path, call)
			}
		}
	})
}

// TestEachFuzzTargetHasACorpus fails for a target that would start from nothing.
func TestEachFuzzTargetHasACorpus(t *testing.T) {
	targets := 0
	goFiles(t, func(path string, text []byte) {
		if !strings.HasSuffix(path, "_test.go") {
			return
		}
		for _, line := range strings.Split(string(text), "\n") {
			name, isTarget := strings.CutPrefix(line, "func Fuzz")
			if !isTarget {
				continue
			}
			targets++
			name = "Fuzz" + name[:strings.IndexByte(name, '(')]
			seeded := bytes.Contains(text, []byte("f.Add(")) || bytes.Contains(text, []byte(".Add("))
			corpus, _ := filepath.Glob(filepath.Join(filepath.Dir(path), "testdata", "fuzz", name, "*"))
			if !seeded && len(corpus) == 0 {
				t.Errorf("%s: %s has neither seeds nor a corpus", path, name)
			}
		}
	})
	if targets == 0 {
		t.Error("found no fuzz target at all")
	}
}
