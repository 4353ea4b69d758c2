package iptables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-sdp/postern/firewall"
)

// patience bounds one answer of the kernel's and one program's run.
const patience = 20 * time.Second

// Variant is one of the two that iptables comes in. They have separate rules.
type Variant string

// Variants. Auto takes that of the program iptables, or the one there is.
const (
	Auto   Variant = "auto"
	NFT    Variant = "nft"
	Legacy Variant = "legacy"
)

// programs are those of one variant, with their paths, IPv4's first.
type programs struct {
	tables, restore, save [2]string
}

// of returns the index of a family's programs.
func of(v6 bool) int {
	if v6 {
		return 1
	}
	return 0
}

func findPrograms(v Variant) (programs, error) {
	var p programs
	for i, base := range []string{"iptables-", "ip6tables-"} {
		for suffix, to := range map[string]*string{
			"": &p.tables[i], "-restore": &p.restore[i], "-save": &p.save[i]} {
			path, err := lookPath(base + string(v) + suffix)
			if err != nil {
				return programs{}, err
			}
			*to = path
		}
	}
	return p, nil
}

// lookPath also looks where PATH of ordinary users does not.
func lookPath(program string) (string, error) {
	if path, err := exec.LookPath(program); err == nil {
		return path, nil
	}
	for _, folder := range []string{"/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(folder, program)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%w: %s", ErrProgram, program)
}

// resolve replaces Auto.
func (v Variant) resolve() (Variant, error) {
	switch v {
	case NFT, Legacy:
		return v, nil
	case Auto, "":
	default:
		return "", fmt.Errorf("%w: %q", ErrVariant, string(v))
	}
	path, err := lookPath("iptables")
	if err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		said, err := exec.CommandContext(ctx, path, "--version").Output()
		if err != nil {
			return "", fmt.Errorf("%w: %s: %w", ErrProgram, path, err)
		}
		if bytes.Contains(said, []byte("nf_tables")) {
			return NFT, nil
		}
		return Legacy, nil
	}
	if _, err := lookPath("iptables-nft"); err == nil {
		return NFT, nil
	}
	return Legacy, nil
}

// namespace is the network namespace that programs run in.
type namespace struct{ file *os.File }

// currentNamespace is that of the calling thread.
func currentNamespace() (namespace, error) {
	file, err := os.Open("/proc/thread-self/ns/net")
	return namespace{file}, err
}

// do runs f on a thread inside the namespace. A thread that is elsewhere needs
// CAP_SYS_ADMIN for it.
func (n namespace) do(f func() error) error {
	runtime.LockOSThread()
	here, err := currentNamespace()
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("find network namespace: %w", err)
	}
	defer here.file.Close()
	same, err := sameFile(here.file, n.file)
	if err == nil && same {
		defer runtime.UnlockOSThread()
		return f()
	}
	if err == nil {
		err = unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET)
	}
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter network namespace: %w", explain(err))
	}
	err = f()
	// A thread that cannot go back stays locked, and ends with its goroutine.
	if back := unix.Setns(int(here.file.Fd()), unix.CLONE_NEWNET); back != nil {
		return errors.Join(err, fmt.Errorf("leave network namespace: %w", back))
	}
	runtime.UnlockOSThread()
	return err
}

func sameFile(a, b *os.File) (bool, error) {
	infoA, errA := a.Stat()
	infoB, errB := b.Stat()
	if err := errors.Join(errA, errB); err != nil {
		return false, err
	}
	return os.SameFile(infoA, infoB), nil
}

// run runs one program and returns what it says.
func (n namespace) run(ctx context.Context, input, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	// As our lock does, it ends with us.
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	var said, complaint bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &said, &complaint
	if err := n.do(cmd.Run); err != nil {
		return "", explainProgram(program, complaint.String(), err)
	}
	return said.String(), nil
}

func explainProgram(program, complaint string, err error) error {
	complaint = strings.Join(strings.Fields(complaint), " ")
	err = fmt.Errorf("%s: %w: %s", filepath.Base(program), err, complaint)
	if strings.Contains(complaint, "Permission denied") || strings.Contains(complaint, "not permitted") {
		return fmt.Errorf("%w (%w)", firewall.ErrPermission, err)
	}
	return err
}

// waitForLock is how iptables-legacy waits for another that is at work.
func waitForLock() []string { return []string{"-w", "10"} }

// restore replaces and changes what text says, a table in one transaction each,
// and leaves the rest. A library cannot do it: go-iptables changes rule by rule.
func (f *Firewall) restore(ctx context.Context, v6 bool, text string) error {
	args := append(waitForLock(), "--noflush")
	_, err := f.namespace.run(ctx, text, f.programs.restore[of(v6)], args...)
	return err
}
