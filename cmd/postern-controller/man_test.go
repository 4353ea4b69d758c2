package main

import (
	"testing"

	"github.com/postern-sdp/postern/internal/cmdline/cmdlinetest"
)

func TestEveryCommandAndOptionIsExplained(t *testing.T) {
	cmdlinetest.Help(t, newApp(streams{}))
}

func TestEveryCommandAndOptionIsInTheManual(t *testing.T) {
	cmdlinetest.Manual(t, newApp(streams{}), manual(), exitOK, exitFailed, exitUsage, exitDenied, exitUnavailable, exitNotFound, exitConflict)
}
