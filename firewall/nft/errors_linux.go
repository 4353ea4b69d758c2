package nft

import "errors"

// Errors of this backend.
var (
	ErrKernel = errors.New("this kernel has no nftables: " +
		"CONFIG_NF_TABLES_INET, NFT_CT and NF_CONNTRACK are needed")
	ErrForeignTable = errors.New("a table of this name is there that was not made by this version: " +
		"delete it or choose another name")
	ErrCounter = errors.New("a counter of dropped packets is missing: install again")
	ErrMoving  = errors.New("the kernel does not stop moving the set's elements: try again")
)
