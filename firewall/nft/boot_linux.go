package nft

import (
	"fmt"
	"strings"

	"github.com/google/nftables"
)

// bootMark is what the name begins with of the empty set that says in which boot the
// pinholes of a table were made.
const bootMark = "boot_"

// bootMarkID is no other set's, within a transaction.
const bootMarkID = 1 << 16

func bootSet(table *nftables.Table, name string) *nftables.Set {
	return &nftables.Set{Table: table, Name: name, ID: bootMarkID, KeyType: nftables.TypeMark}
}

// queueBootLocked marks the table with the running boot, and closes the pinholes of
// another one. A table without a mark was made by a version that had none.
func (f *Firewall) queueBootLocked(present map[string]*nftables.Set) error {
	if f.boot == "" {
		return nil
	}
	stale := false
	for name := range present {
		if strings.HasPrefix(name, bootMark) && name != bootMark+f.boot {
			f.conn.DelSet(bootSet(f.table, name))
			stale = true
		}
	}
	if stale {
		for _, l := range layouts()[:doors] {
			f.conn.FlushSet(&nftables.Set{Table: f.table, Name: l.name})
		}
	}
	if err := f.conn.AddSet(bootSet(f.table, bootMark+f.boot), nil); err != nil {
		return fmt.Errorf("set %s: %w", bootMark+f.boot, err)
	}
	return nil
}
