package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// startSSHD runs the machine's real sshd on the host, on all addresses and port
// 22, as a careless administrator would: what hides it is Postern alone.
func (l *Lab) startSSHD(ctx context.Context) error {
	dir := filepath.Join(l.Dir, "sshd")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, name := range []string{"host_key", "user_key"} {
		_, err := l.Run(ctx, "host", "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, name))
		if err != nil {
			return fmt.Errorf("make sshd's keys: %w", err)
		}
	}
	public, err := os.ReadFile(filepath.Join(dir, "user_key.pub"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "authorized_keys"), public, 0o600); err != nil {
		return err
	}
	hostKey, err := os.ReadFile(filepath.Join(dir, "host_key.pub"))
	if err != nil {
		return err
	}
	known := append([]byte("ssh-lab "), hostKey...)
	if err := os.WriteFile(filepath.Join(dir, "known_hosts"), known, 0o600); err != nil {
		return err
	}
	config := fmt.Sprintf(`Port 22
HostKey %[1]s/host_key
AuthorizedKeysFile %[1]s/authorized_keys
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
`, dir)
	path := filepath.Join(dir, "sshd_config")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		return err
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // sshd insists on it
		return err
	}
	return l.runSSHD(ctx)
}

// runSSHD starts sshd on the files that are there.
func (l *Lab) runSSHD(ctx context.Context) (err error) {
	path := filepath.Join(l.Dir, "sshd", "sshd_config")
	if l.sshd, err = l.Start("host", "sshd", "-D", "-e", "-f", path); err != nil {
		return err
	}
	return Wait(ctx, 10*time.Second, "sshd to listen", func() (bool, error) {
		if !l.sshd.Running() {
			return false, fmt.Errorf("sshd ended: %s", l.sshd.Log())
		}
		return l.listens("host", "tcp", 22)
	})
}

// sshArgs are the arguments that bring `ssh` through Postern to the host's sshd.
func (l *Lab) sshArgs(who string, command ...string) []string {
	dir := filepath.Join(l.Dir, "sshd")
	proxy := fmt.Sprintf("%s connect --stdio %%h", filepath.Join(l.Bin, "postern"))
	return append([]string{
		"-F", "none", "-i", filepath.Join(dir, "user_key"), "-o", "IdentitiesOnly=yes",
		"-o", "UserKnownHostsFile=" + filepath.Join(dir, "known_hosts"),
		"-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes",
		"-o", "ProxyCommand=env XDG_CONFIG_HOME=" + l.ConfigHome(who) + " " + proxy,
		"root@ssh-lab",
	}, command...)
}
