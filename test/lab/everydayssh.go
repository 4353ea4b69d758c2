package lab

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// noise returns bytes that nothing can compress, the same ones for the same name.
func noise(name string, size int) []byte {
	b := make([]byte, size)
	_, _ = rand.NewChaCha8(sha256.Sum256([]byte(name))).Read(b) // never fails
	return b
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// holds checks that a file has these bytes.
func holds(path string, want []byte) error {
	got, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return broken("%s has %d bytes (%.12s…), not the %d sent (%.12s…)", filepath.Base(path), len(got), sum(got),
			len(want), sum(want))
	}
	return nil
}

// digest is a checksum of all files of a folder: names, modes and bytes.
func digest(folder string) (string, error) {
	h := sha256.New()
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(folder, path)
		if err != nil {
			return err
		}
		fmt.Fprintln(h, name, info.Mode())
		if d.Type().IsRegular() {
			b, err := os.ReadFile(path)
			fmt.Fprintln(h, sum(b))
			return err
		}
		return nil
	})
	return hex.EncodeToString(h.Sum(nil)), err
}

// ownSSHConfig is what a person has in an ssh configuration before Postern.
func (e *Everyday) ownSSHConfig() string {
	return fmt.Sprintf(`# mine
Host *
  User root
  IdentityFile %[1]s/user_key
  IdentitiesOnly yes
  BatchMode yes
  UserKnownHostsFile %[1]s/known_services
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
`, e.path("sshd"))
}

// installSSHConfig has Postern put what is needed into a person's configuration.
func (e *Everyday) installSSHConfig(ctx context.Context) error {
	hostKey, err := os.ReadFile(e.path("sshd", "host_key.pub"))
	if err != nil {
		return err
	}
	known := append([]byte("ssh-lab.postern.internal "), hostKey...)
	err = errors.Join(os.WriteFile(e.path("sshd", "known_services"), known, 0o600),
		os.WriteFile(e.sshConfig(), []byte(e.ownSSHConfig()), 0o600))
	if err != nil {
		return err
	}
	_, err = e.use(ctx, "postern", "ssh-config", "--install", "--path", e.sshConfig())
	return err
}

func (e *Everyday) sshConfig() string { return e.path(atClient, "ssh_config") }

// granted counts the sessions for a service that the controller has granted so far.
func (e *Everyday) granted(service string) (int, error) {
	log, err := os.ReadFile(e.controller.log)
	if err != nil {
		return 0, err
	}
	n := 0
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, `msg="access granted"`) && strings.Contains(line, " service="+service+" ") {
			n++
		}
	}
	return n, nil
}

// tenAtOnce runs ssh ten times at once. All of them, and all that ssh carried in the
// steps before, are one session.
func (e *Everyday) tenAtOnce(ctx context.Context) (string, error) {
	var (
		group sync.WaitGroup
		errs  [10]error
		took  [10]time.Duration
	)
	for i := range errs {
		group.Go(func() {
			in := noise(fmt.Sprint("of the ten, ", i), 1<<20)
			begun := time.Now()
			out, err := e.ssh(ctx, in, "cat")
			took[i] = time.Since(begun)
			if err == nil && out != string(in) {
				err = broken("number %d got %d bytes that are not its own %d", i, len(out), len(in))
			}
			errs[i] = err
		})
	}
	group.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		return "", err
	}
	granted, err := e.granted("ssh-lab")
	if err == nil && granted != 1 {
		err = broken("all of ssh, scp, sftp, rsync, git took %d sessions, not one", granted)
	}
	return fmt.Sprintf("10 MiB through ten at once, the slowest in %s; with all before, one session",
		slices.Max(took[:]).Round(time.Millisecond)), err
}

// uninstallWorks takes Postern out of the person's ssh configuration again.
func (e *Everyday) uninstallWorks(ctx context.Context) (string, error) {
	if _, err := e.use(ctx, "postern", "ssh-config", "--uninstall", "--path", e.sshConfig()); err != nil {
		return "", err
	}
	if err := holds(e.sshConfig(), []byte(e.ownSSHConfig())); err != nil {
		return "", err
	}
	if _, err := e.ssh(ctx, nil, "true"); exitCode(err) != 255 {
		return "", broken("plain ssh still finds the service: %v", err)
	}
	out, err := e.use(ctx, "postern", "ssh", "-F", e.sshConfig(), "ssh-lab", "echo", "still")
	if err == nil && out != "still\n" {
		err = broken("postern ssh printed %q", out)
	}
	return "the configuration is what it was, plain ssh knows no service, postern ssh does", err
}

// ssh runs the real ssh with a standard input.
func (e *Everyday) ssh(ctx context.Context, in []byte, command ...string) (string, error) {
	return e.useWith(ctx, bytes.NewReader(in), nil, "ssh", append([]string{"-F", e.sshConfig(), "ssh-lab"}, command...)...)
}

func (e *Everyday) sshWorks(ctx context.Context) (string, error) {
	up, down := noise("ssh up", 8<<20), noise("ssh down", 8<<20)
	if err := os.WriteFile(e.path(atHost, "down.bin"), down, 0o600); err != nil {
		return "", err
	}
	out, err := e.ssh(ctx, up, "sha256sum")
	if err != nil {
		return "", err
	}
	if !strings.HasPrefix(out, sum(up)) {
		return "", broken("the host's sha256sum of what ssh sent is %q, not %s", out, sum(up))
	}
	if out, err = e.ssh(ctx, nil, "cat", e.path(atHost, "down.bin")); err != nil {
		return "", err
	}
	if out != string(down) {
		return "", broken("ssh brought %d bytes (%.12s…), not the file (%.12s…)", len(out), sum([]byte(out)), sum(down))
	}
	// Both at once: a byte that is lost or a direction that ends early shows.
	if out, err = e.ssh(ctx, up, "cat"); err != nil || out != string(up) {
		return "", errors.Join(broken("of %d bytes through `ssh cat`, %d came back the same", len(up), len(out)), err)
	}
	_, err = e.ssh(ctx, nil, "echo to stderr >&2; exit 7")
	if exitCode(err) != 7 || !strings.HasSuffix(err.Error(), "to stderr") {
		return "", broken("a command that ends with 7 and speaks on stderr: %v", err)
	}
	return "8 MiB up, 8 MiB down, 8 MiB through `cat`, exit code 7", nil
}

func (e *Everyday) scpWorks(ctx context.Context) (string, error) {
	content := noise("scp", 16<<20)
	if err := os.WriteFile(e.path(atClient, "scp.bin"), content, 0o600); err != nil {
		return "", err
	}
	there := "ssh-lab:" + e.path(atHost, "scp.bin")
	if _, err := e.use(ctx, "scp", "-q", "-F", e.sshConfig(), e.path(atClient, "scp.bin"), there); err != nil {
		return "", err
	}
	if err := holds(e.path(atHost, "scp.bin"), content); err != nil {
		return "", err
	}
	if _, err := e.use(ctx, "scp", "-q", "-F", e.sshConfig(), there, e.path(atClient, "back.bin")); err != nil {
		return "", err
	}
	if err := holds(e.path(atClient, "back.bin"), content); err != nil {
		return "", err
	}
	_, err := e.use(ctx, "scp", "-q", "-F", e.sshConfig(), "ssh-lab:"+e.path(atHost, "none"), e.path(atClient, "x"))
	if exitCode(err) != 1 {
		return "", broken("scp of a file that is not there: %v", err)
	}
	return "16 MiB there and back, equal", nil
}

func (e *Everyday) sftpWorks(ctx context.Context) (string, error) {
	content := noise("sftp", 4<<20)
	if err := os.WriteFile(e.path(atClient, "sftp.bin"), content, 0o600); err != nil {
		return "", err
	}
	batch := fmt.Sprintf(`cd %[1]s
mkdir sftp
put %[2]s/sftp.bin sftp/sent.bin
rename sftp/sent.bin sftp/renamed.bin
chmod 640 sftp/renamed.bin
ls -l sftp
get sftp/renamed.bin %[2]s/sftp-back.bin
`, e.path(atHost), e.path(atClient))
	out, err := e.useWith(ctx, strings.NewReader(batch), nil, "sftp", "-q", "-F", e.sshConfig(), "-b", "-", "ssh-lab")
	if err != nil {
		return "", err
	}
	if !strings.Contains(out, "-rw-r-----") || !strings.Contains(out, "renamed.bin") {
		return "", broken("sftp's list is %q", out)
	}
	return "put, rename, chmod, ls and get of 4 MiB", errors.Join(
		holds(e.path(atHost, "sftp", "renamed.bin"), content), holds(e.path(atClient, "sftp-back.bin"), content))
}

func (e *Everyday) rsyncWorks(ctx context.Context) (string, error) {
	here, there := e.path(atClient, "tree"), e.path(atHost, "tree")
	for i := range 200 {
		path := filepath.Join(here, fmt.Sprint("d", i%7), fmt.Sprint("file", i))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return "", err
		}
		if err := os.WriteFile(path, noise(path, 997*(i%40)), 0o640); err != nil {
			return "", err
		}
	}
	rsync := func(args ...string) (string, error) {
		return e.use(ctx, "rsync", append([]string{"-a", "--delete", "-e", "ssh -F " + e.sshConfig()}, args...)...)
	}
	if _, err := rsync(here+"/", "ssh-lab:"+there+"/"); err != nil {
		return "", err
	}
	if err := sameTrees(here, there); err != nil {
		return "", err
	}
	if err := errors.Join(os.Remove(filepath.Join(here, "d1", "file1")),
		os.WriteFile(filepath.Join(here, "d2", "file2"), noise("changed", 5000), 0o640)); err != nil {
		return "", err
	}
	out, err := rsync("--checksum", "--out-format=%o %n", here+"/", "ssh-lab:"+there+"/")
	if err != nil {
		return "", err
	}
	files := 0
	for line := range strings.Lines(out) {
		if !strings.HasSuffix(line, "/\n") {
			files++
		}
	}
	if files != 2 {
		return "", broken("one file changed and one went, rsync carried:\n%s", out)
	}
	if _, err := rsync("ssh-lab:"+there+"/", e.path(atClient, "tree-back")+"/"); err != nil {
		return "", err
	}
	return "200 files there, 1 changed and 1 gone, and back: equal trees",
		errors.Join(sameTrees(here, there), sameTrees(here, e.path(atClient, "tree-back")))
}

func sameTrees(one, other string) error {
	a, err := digest(one)
	if err != nil {
		return err
	}
	b, err := digest(other)
	if err == nil && a != b {
		err = broken("%s and %s differ", one, other)
	}
	return err
}

// git runs git in a folder of the person's, with nobody's configuration.
func (e *Everyday) git(ctx context.Context, folder string, args ...string) (string, error) {
	env := []string{
		"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "GIT_TERMINAL_PROMPT=0",
		"GIT_SSH_COMMAND=ssh -F " + e.sshConfig(),
		"GIT_AUTHOR_NAME=Alice", "GIT_AUTHOR_EMAIL=alice@example.org",
		"GIT_COMMITTER_NAME=Alice", "GIT_COMMITTER_EMAIL=alice@example.org",
	}
	return e.useWith(ctx, nil, env, "git", append([]string{"-C", folder}, args...)...)
}

func (e *Everyday) gitWorks(ctx context.Context) (string, error) {
	bare := e.path(atHost, "project.git")
	if _, err := e.Run(ctx, "host", "git", "init", "-q", "--bare", "-b", "main", bare); err != nil {
		return "", err
	}
	desk, laptop := e.path(atClient, "desk"), e.path(atClient, "laptop")
	for _, folder := range []string{desk, laptop} { // of one empty repository
		if _, err := e.git(ctx, e.path(atClient), "clone", "-q", "ssh-lab:"+bare, folder); err != nil {
			return "", err
		}
	}
	if err := os.WriteFile(filepath.Join(desk, "large.bin"), noise("git", 8<<20), 0o644); err != nil {
		return "", err
	}
	commit := func(folder, message string) error {
		_, err := e.git(ctx, folder, "add", "-A")
		if err == nil {
			_, err = e.git(ctx, folder, "commit", "-q", "--allow-empty", "-m", message)
		}
		return err
	}
	if err := commit(desk, "eight megabytes"); err != nil {
		return "", err
	}
	if _, err := e.git(ctx, desk, "push", "-q", "origin", "HEAD:main"); err != nil {
		return "", err
	}
	// The other one knows nothing of that push: git says no, and says so in its exit code.
	if err := commit(laptop, "too late"); err != nil {
		return "", err
	}
	_, err := e.git(ctx, laptop, "push", "-q", "origin", "HEAD:main")
	if exitCode(err) != 1 || !strings.Contains(err.Error(), "rejected") {
		return "", broken("a push that is behind: %v", err)
	}
	if _, err := e.git(ctx, laptop, "fetch", "-q"); err != nil {
		return "", err
	}
	if _, err := e.git(ctx, laptop, "reset", "-q", "--hard", "origin/main"); err != nil {
		return "", err
	}
	if _, err := e.Run(ctx, "host", "git", "-C", bare, "fsck", "--full", "--strict"); err != nil {
		return "", err
	}
	mine, err := e.git(ctx, desk, "rev-parse", "HEAD")
	if err != nil {
		return "", err
	}
	theirs, err := e.Run(ctx, "host", "git", "-C", bare, "rev-parse", "main")
	if err == nil && (mine != theirs || mine == "") {
		err = broken("pushed %s, the host has %s", mine, theirs)
	}
	return "clone, push of 8 MiB, rejected push, fetch", errors.Join(err,
		holds(filepath.Join(laptop, "large.bin"), noise("git", 8<<20)))
}
