package lab

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// ForProcess returns a lab whose namespaces carry this process's number, after it
// has removed those of the same kind that killed processes left behind.
func ForProcess(kind, bin, dir string) (*Lab, error) {
	if err := sweepDead(kind); err != nil {
		return nil, err
	}
	return &Lab{Prefix: kind + strconv.Itoa(os.Getpid()), Bin: bin, Dir: dir, Attached: true}, nil
}

// sweepDead takes down the labs whose prefix is kind and the number of a process that
// is no more.
func sweepDead(kind string) error {
	entries, err := os.ReadDir(runDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list namespaces: %w", err)
	}
	for _, e := range entries {
		prefix, _, _ := strings.Cut(e.Name(), "-")
		number, ok := strings.CutPrefix(prefix, kind)
		pid, err := strconv.Atoi(number)
		if !ok || err != nil {
			continue
		}
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); errors.Is(err, os.ErrNotExist) {
			if err := (&Lab{Prefix: prefix}).Down(); err != nil {
				return fmt.Errorf("remove the lab of killed process %d: %w", pid, err)
			}
		}
	}
	return nil
}
