package doctor

import (
	"fmt"
	"os"
	"strings"

	"github.com/postern-sdp/postern/firewall/survey"
)

// savedRules is about rule sets that an administrator has saved with ours in them.
func savedRules(e *examination) Finding {
	const name = "saved rules"
	if e.savedErr != nil {
		return Finding{name, Skip, oneLine(e.savedErr), "run it as root"}
	}
	var rules, tables []string
	for _, file := range e.saved {
		if strings.Contains(file, "nftables") {
			tables = append(tables, "/"+file)
		} else {
			rules = append(rules, "/"+file)
		}
	}
	table := e.Settings.Firewall.Table
	switch {
	case len(rules) > 0:
		return Finding{name, Warn, fmt.Sprintf("ours are in %s: what refers to sets that are not there cannot be restored "+
			"at boot, the file's other rules neither", strings.Join(append(rules, tables...), ", ")),
			fmt.Sprintf("take our lines out, and again after each save: sed -i -e '/%s-/d' -e '/%s-/d' %s",
				strings.ToUpper(table), table, strings.Join(rules, " "))}
	case len(tables) > 0:
		return Finding{name, Warn, fmt.Sprintf("ours are in %s, as they once were", strings.Join(tables, ", ")),
			fmt.Sprintf("take them (table inet %s) out of the file: postern-host firewall up puts them in place at boot", table)}
	}
	return Finding{name, OK, "none of ours: they are made at boot", ""}
}

func (e *examination) readSaved() {
	e.saved, e.savedErr = survey.Saved(os.DirFS("/"), e.Settings.Firewall.Table)
}
