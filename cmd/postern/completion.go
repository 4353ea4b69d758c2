package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/postern-sdp/postern/client"
	"github.com/postern-sdp/postern/internal/cmdline"
)

func (p program) completion() *cli.Command {
	return cmdline.Completion("postern", p.out, func(err error) error { return usageError{err} })
}

// complete answers what the library cannot, when a shell asks for completions, and
// reports whether it did.
func (p program) complete(args []string) bool {
	if !cmdline.Completing(args) {
		return false
	}
	asked := args[:len(args)-1]
	switch last := asked[len(asked)-1]; {
	case cmdline.Unanswerable(args):
	case last == "--profile" || last == "-profile":
		p.suggestProfiles()
	default:
		return false
	}
	return true
}

// suggest prints words for a shell, one a line. Only plain ones: bash expands what it
// is given, a name like $(id) too.
func (p program) suggest(words ...string) {
	for _, word := range words {
		if plainWord(word) {
			fmt.Fprintln(p.out, word)
		}
	}
}

func plainWord(word string) bool {
	odd := strings.ContainsFunc(word, func(r rune) bool {
		alphanumeric := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
		return !alphanumeric && !strings.ContainsRune("-._", r)
	})
	return word != "" && !odd && word[0] != '-'
}

func (p program) suggestProfiles() {
	if store, err := profiles(); err == nil {
		names, _ := store.List() // none where there are none
		p.suggest(names...)
	}
}

// completeProfile is the BashComplete of commands that take a profile's name.
func (p program) completeProfile(c *cli.Context) {
	if asksOptions(c) {
		return
	}
	p.suggestProfiles()
}

// completeService is the BashComplete of commands that take a service's name. It
// knocks at nobody: the names are those of the last postern services.
func (p program) completeService(c *cli.Context) {
	if asksOptions(c) || c.Args().Present() {
		return
	}
	path, err := folder(c)
	if err != nil {
		return
	}
	list, err := client.CachedServices(path)
	if err != nil {
		return
	}
	for _, s := range list.Services.Services {
		p.suggest(s.Name)
	}
}

// asksOptions lets the library complete a command's options, where one was begun.
func asksOptions(c *cli.Context) bool {
	if n := len(os.Args); n < 2 || !strings.HasPrefix(os.Args[n-2], "-") {
		return false
	}
	cli.DefaultCompleteWithFlags(c.Command)(c)
	return true
}
