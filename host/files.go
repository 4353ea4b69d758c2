package host

import "syscall"

// maxServices returns how many connections to services there may be at once: three
// quarters of the files that this process may open. What is left is for the link, the
// status socket, the state and the log, which must work for as long as the agent does.
func maxServices() int {
	const fallback = 768 // of 1024, which every system allows
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fallback
	}
	const most = 1 << 20 // "unlimited"
	return int(min(limit.Cur, most) / 4 * 3)
}
