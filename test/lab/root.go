package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// root is a file system of one machine's own: a copy on write of this machine's, in
// memory. What is installed and configured there is gone with the lab, however it ends.
type root struct{ holder *Process }

// rootScript makes the file system $1/root in a mount namespace that lives as long as
// the process. The lab's folder, $2, is there at its usual path.
const rootScript = `mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
mkdir -p "$1/root/$2"
mount --bind "$2" "$1/root/$2"
for d in proc sys dev; do mount --rbind "/$d" "$1/root/$d"; done
mount -t tmpfs tmpfs "$1/root/run"
mkdir "$1/root/run/sshd" "$1/root/run/lock"
touch "$1/root/run/ready"
exec chroot "$1/root" sleep infinity`

// addRoot gives a machine a file system of its own. From now on what runs on the
// machine runs in it, with the programs that are installed there.
func (l *Lab) addRoot(ctx context.Context, where string) error {
	disk := l.path("disk-" + where)
	if err := os.Mkdir(disk, 0o700); err != nil {
		return err
	}
	holder, err := l.start(where, "disk", l.command(context.Background(), "unshare", "--mount",
		"sh", "-ec", rootScript, "sh", disk, l.Dir))
	if err != nil {
		return err
	}
	r := &root{holder}
	err = Wait(ctx, 10*time.Second, "the file system of "+where, func() (bool, error) {
		if !holder.Running() {
			return false, fmt.Errorf("it was not made: %s", holder.Log())
		}
		name, err := os.Readlink(r.proc("exe"))
		return err == nil && filepath.Base(name) == "sleep", err
	})
	if err != nil {
		return err
	}
	if l.roots == nil {
		l.roots = make(map[string]*root)
	}
	l.roots[where] = r
	return nil
}

// proc is a file in /proc that tells of the process which holds the file system.
func (r *root) proc(name string) string {
	return filepath.Join("/proc", strconv.Itoa(r.holder.cmd.Process.Pid), name)
}

// path is where this machine finds a file of the other one.
func (r *root) path(name string) string { return filepath.Join(r.proc("root"), name) }

// command returns a command that runs in the file system.
func (r *root) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	for _, folder := range []string{"/usr/sbin", "/usr/bin"} {
		if _, err := os.Lstat(r.path(filepath.Join(folder, program))); err == nil && filepath.Base(program) == program {
			program = filepath.Join(folder, program) // sshd wants to know where it is
		}
	}
	pid := strconv.Itoa(r.holder.cmd.Process.Pid)
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{
		"--target", pid, "--mount", "--root", "--wd", "--", program,
	}, args...)...)
	cmd.WaitDelay = 2 * time.Second
	cmd.Env = []string{"HOME=/root", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8",
		"DEBIAN_FRONTEND=noninteractive"}
	return cmd
}

// restart ends all that runs on a machine but its file system, which forgets what is
// in /run.
func (l *Lab) restart(ctx context.Context, where string) error {
	r := l.roots[where]
	mine, err := os.Readlink(r.proc("ns/mnt"))
	if err != nil {
		return err
	}
	err = Wait(ctx, 10*time.Second, "the processes to end", func() (bool, error) {
		others, err := inMountNamespace(mine, r.holder.cmd.Process.Pid)
		for _, pid := range others {
			_ = syscall.Kill(pid, syscall.SIGKILL) // gone already is as good
		}
		return err == nil && len(others) == 0, err
	})
	if err != nil {
		return err
	}
	_, err = l.Run(ctx, where, "sh", "-ec",
		"umount -l /run; mount -t tmpfs tmpfs /run; mkdir /run/sshd /run/lock")
	return err
}

// inMountNamespace lists the processes in a mount namespace, but one.
func inMountNamespace(namespace string, except int) ([]int, error) {
	links, err := filepath.Glob("/proc/[0-9]*/ns/mnt")
	var pids []int
	for _, link := range links {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(link))))
		if name, err := os.Readlink(link); err == nil && name == namespace && pid != except && !zombie(pid) {
			pids = append(pids, pid)
		}
	}
	return pids, err
}
