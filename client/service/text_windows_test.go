package service

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/windows"
)

func TestWindowsItselfReadsTheArguments(t *testing.T) {
	for _, args := range [][]string{hardWindows.Args, hard.Args} {
		var words []string
		for _, arg := range args {
			words = append(words, quoteWindows(arg))
		}
		got, err := windows.DecomposeCommandLine("postern.exe " + strings.Join(words, " "))
		if err != nil || !slices.Equal(got[1:], args) {
			t.Errorf("got %q, %v; want %q", got, err, args)
		}
	}
}
