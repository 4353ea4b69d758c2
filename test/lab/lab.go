package lab

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Lab is one standing network and the programs that run on it. It is not safe
// for concurrent use, except for Run and Start.
type Lab struct {
	Prefix string // of the namespaces' names; also says whose leavings are whose
	Bin    string // folder of the built commands
	Dir    string // private folder for keys, configurations and logs
	// Attached daemons die with this process; a lab that is to be left standing
	// sets it to false.
	Attached bool
	// LogLevel of the daemons: "debug" when empty.
	LogLevel string
	// Backend is the host's firewall.backend: its default when empty.
	Backend string
	// HostSettings are sections of the host's configuration besides the usual.
	HostSettings string

	sshd, controller, host *Process
	sources                []net.Listener
	packets                []net.PacketConn
	lines                  []*longLine
	rebinds                int // of NATs, so far
	clients                int // of AddClient, so far
	roots                  map[string]*root
}

// Up removes what an earlier lab of the same prefix left, then builds the network.
func Up(l *Lab) error {
	if os.Geteuid() != 0 {
		return errors.New("making network namespaces needs root: run it with sudo, or inside `unshare -Urnm`")
	}
	if err := l.Down(); err != nil {
		return err
	}
	if err := os.MkdirAll(l.Dir, 0o700); err != nil {
		return fmt.Errorf("make the lab's folder: %w", err)
	}
	if err := shareNames(); err != nil {
		return fmt.Errorf("prepare %s: %w", runDir, err)
	}
	if err := l.buildNetwork(); err != nil {
		return errors.Join(err, l.Down())
	}
	return nil
}

// Down kills every process inside the lab's namespaces, then removes them and
// the lab's folder. It is safe to call at any time, also on a half-built lab.
func (l *Lab) Down() error {
	for _, s := range l.sources {
		_ = s.Close()
	}
	for _, s := range l.packets {
		_ = s.Close()
	}
	for _, w := range l.lines {
		w.Close()
	}
	l.sources, l.packets, l.lines = nil, nil, nil
	names, err := l.namespaces()
	if err != nil {
		return err
	}
	if err := killInside(names); err != nil {
		return err
	}
	for _, name := range names {
		if err := deleteNamespace(name); err != nil {
			return fmt.Errorf("remove namespace %s: %w", name, err)
		}
	}
	if l.Dir == "" {
		return nil
	}
	return os.RemoveAll(l.Dir)
}

// Standing reports whether the lab's namespaces are there.
func (l *Lab) Standing() bool {
	names, err := l.namespaces()
	return err == nil && len(names) == len(machines)
}

// killInside ends all processes of the namespaces and waits until they are gone.
func killInside(names []string) error {
	inodes := make(map[uint64]bool)
	for _, name := range names {
		info, err := os.Stat(filepath.Join(runDir, name))
		if err != nil {
			continue
		}
		inodes[info.Sys().(*syscall.Stat_t).Ino] = true
	}
	deadline := time.Now().Add(5 * time.Second)
	for len(inodes) > 0 {
		pids := processesIn(inodes)
		if len(pids) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v of the lab do not end", pids)
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL) // gone already is as good
		}
		time.Sleep(10 * time.Millisecond)
	}
	return nil
}

func processesIn(inodes map[uint64]bool) []int {
	links, _ := filepath.Glob("/proc/[0-9]*/ns/net")
	var pids []int
	for _, link := range links {
		info, err := os.Stat(link)
		if err != nil {
			continue
		}
		pid, err := strconv.Atoi(strings.Split(link, "/")[2])
		if err != nil || pid == os.Getpid() || zombie(pid) {
			continue
		}
		if inodes[info.Sys().(*syscall.Stat_t).Ino] {
			pids = append(pids, pid)
		}
	}
	return pids
}

func zombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(after, "Z")
}
