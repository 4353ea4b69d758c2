package main

import (
	"testing"

	"github.com/postern-sdp/postern/internal/cmdline/cmdlinetest"
)

func TestEveryCommandAndOptionIsExplained(t *testing.T) {
	cmdlinetest.Help(t, program{}.app())
}

func TestEveryCommandAndOptionIsInTheManual(t *testing.T) {
	cmdlinetest.Manual(t, program{}.app(), manual(), exitOK, exitFailed, exitUsage, exitRights, exitNotEnroled, exitNotRunning)
}
