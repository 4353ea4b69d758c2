//go:build unix

package testkit

import (
	"os"
	"testing"
)

// RequireRoot fails the test when this process is not root, at least in a user
// namespace of its own. It does not skip it: a test that nobody ran proves nothing.
func RequireRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("needs root: run the tests with sudo or, for all but a few, under unshare -Urnm")
	}
}
