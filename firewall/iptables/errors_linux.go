package iptables

import "errors"

// Errors of this backend.
var (
	// ErrProgram is returned by New when a program is missing or of the wrong variant.
	ErrProgram = errors.New("a program of iptables is missing: install the package iptables")
	// ErrKernel is returned by New and Install when the kernel has no sets for addresses.
	ErrKernel = errors.New("this kernel has no IP sets: CONFIG_IP_SET_HASH_IPPORT, IP_SET_HASH_IP, " +
		"IP_SET_HASH_NET, IP_SET_BITMAP_PORT, IP_SET_LIST_SET and NETFILTER_XT_SET are needed")
	ErrName = errors.New("not a usable name: lower-case letters, digits and _, at most 18 of them, " +
		"and a letter first")
	ErrVariant = errors.New("no such variant of iptables: nft, legacy or auto")
	// ErrForeignSet is a set that has one of our names and another layout.
	ErrForeignSet = errors.New("a set of this name is there that was not made by this version: " +
		"destroy it or choose another name")
	ErrFull = errors.New("the set has no room for more pinholes")
	ErrBusy = errors.New("another process is changing these rules and does not come to an end")

	// errMissing is a set that is not there, errInUse one that a rule refers to.
	errMissing = errors.New("the set is not there")
	errInUse   = errors.New("the set is in use")
	errThere   = errors.New("the element is there already")
)
