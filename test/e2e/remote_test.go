package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/postern-sdp/postern/test/lab"
)

// hostPackage builds the host agent's Debian package, for all tests once.
var hostPackage = sync.OnceValues(func() (string, error) {
	cmd := exec.Command("configs/packages/build.sh")
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), "DIST="+filepath.Join(built, "dist"), "VERSION=v0.0.1", "PACKAGE_VERSION=",
		"PACKAGE_ARCHES="+runtime.GOARCH, "PACKAGE_FORMATS=deb")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the packages: %w\n%s", err, out)
	}
	found, err := filepath.Glob(filepath.Join(built, "dist", "postern-host_*.deb"))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("built %v: %w", found, err)
	}
	return found[0], nil
})

// TestARemoteServerIsDarkAtEveryInstantAndLocksNobodyOut takes a server with sshd,
// ufw and a container's published ports from the package's installation to its purge,
// while a stranger and a neighbour of the client's probe it without a pause.
func TestARemoteServerIsDarkAtEveryInstantAndLocksNobodyOut(t *testing.T) {
	deb, err := hostPackage()
	if err != nil {
		t.Fatal(err)
	}
	for _, backend := range []string{"nftables", "iptables"} {
		t.Run(backend, func(t *testing.T) {
			l := newLab(t)
			l.Backend = backend
			r, err := lab.NewRemote(t.Context(), l, deb)
			if err != nil {
				t.Fatal(err)
			}
			inOrder(t, l, r.Steps(), r)
		})
	}
}
