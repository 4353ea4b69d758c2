package config

// Bridges are the interfaces that container engines and hypervisors make: machines
// behind them may begin flows, unless the administrator says otherwise.
func Bridges() []string {
	return []string{
		"docker*", "br-*", "podman*", "cni*", "virbr*", "lxcbr*", "lxdbr*", "incusbr*",
	}
}
