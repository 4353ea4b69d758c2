package doctor

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/postern-sdp/postern/firewall"
	"github.com/postern-sdp/postern/firewall/choose"
	"github.com/postern-sdp/postern/firewall/survey"
	"github.com/postern-sdp/postern/host"
)

func (e *examination) listen() netip.AddrPort {
	a, _ := netip.ParseAddrPort(e.Settings.Tunnel.Listen) // validated
	return a
}

func configuration(e *examination) Finding {
	if e.Fault != nil {
		return Finding{"configuration", Fail, oneLine(e.Fault), "correct the file; the checks below take the defaults, and state and table of the last good one"}
	}
	return Finding{"configuration", OK, "can be read", ""}
}

func rights(e *examination) Finding {
	var missing *host.RightsError
	switch {
	case errors.As(e.rights, &missing):
		return Finding{"rights", Fail, "of this process: " + oneLine(e.rights), missing.Hint()}
	case e.rights != nil:
		return Finding{"rights", Fail, oneLine(e.rights), ""}
	}
	return Finding{"rights", OK, "this process has the capabilities that the settings need", ""}
}

func kernel(e *examination) Finding {
	const name = "kernel"
	if e.machineErr != nil {
		return Finding{name, Skip, e.blind(), "run it as root"}
	}
	if e.choice.Backend == choose.None {
		return Finding{name, Skip, "no firewall is to be used", ""}
	}
	found := "nftables"
	if e.choice.Backend == choose.IPTables {
		if !e.machine.IPSet {
			return Finding{name, Fail, "it has no IP sets, which the iptables backend needs",
				"modprobe ip_set, or another kernel"}
		}
		found = "IP sets"
	}
	_, err := os.Stat("/proc/sys/net/netfilter/nf_conntrack_count")
	switch {
	case err == nil:
		return Finding{name, OK, found + " and connection tracking", ""}
	case e.installed: // whose rules would have loaded it
		return Finding{name, Fail, found + ", but no connection tracking", "modprobe nf_conntrack"}
	}
	return Finding{name, OK, found + "; connection tracking comes with the first rule that needs it", ""}
}

// table is about our own rules.
func table(e *examination) Finding {
	const name = "firewall"
	switch {
	case e.machineErr != nil:
		return Finding{name, Skip, e.blind(), "run it as root"}
	case e.choice.Backend == choose.None && len(e.machine.Ours) > 0:
		return Finding{name, Fail, fmt.Sprintf("the settings say none, and rules of before (%s) keep everybody out",
			e.machine.Ours[0]), "postern-host unprotect takes them away"}
	case e.choice.Backend == choose.None:
		return Finding{name, Warn, "none: the settings leave layer 1 to somebody else",
			`firewall.backend = "auto" puts it in place`}
	case e.tableErr != nil:
		return Finding{name, Fail, fmt.Sprintf("%s: %s", e.choice.Variant, oneLine(e.tableErr)),
			"postern-host serve installs it anew"}
	case e.machine.OursDormant:
		return Finding{name, Fail, "the table is there and switched off (dormant)",
			"nft add table inet " + e.Settings.Firewall.Table + " '{ flags ; }', and ask who did that"}
	case e.installed && e.machine.Guards(survey.Probe{Protocol: "tcp"}) < survey.Always:
		return Finding{name, Fail, "our rules are there and let everybody in: the trial is over, or a keep rule is for the world",
			"confirm the protection, or make the keep rules narrower"}
	case len(e.choice.Leaves) > 0:
		return Finding{name, Warn, fmt.Sprintf("%s is ordered, %s is still there", e.choice.Variant,
			e.choice.Leaves[0]), "postern-host serve replaces it"}
	case !e.installed && (e.protection == "on" || e.protection == "trial"):
		return Finding{name, Fail, "this host shall be protected, and our rules are not there",
			"start the agent: systemctl start postern-host"}
	case !e.installed:
		return Finding{name, Warn, "our rules are not there; they would be " + e.choice.String(),
			"postern-host serve installs them"}
	}
	return Finding{name, OK, fmt.Sprintf("%s (%s), %s", e.choice.Variant, e.choice.Reason,
		plural(e.pinholes, "pinhole")), ""}
}

func protection(e *examination) Finding {
	const name = "protection"
	if e.protectionErr != nil {
		return Finding{name, Fail, oneLine(e.protectionErr) + ": it counts as on",
			"postern-host protect, or unprotect, decides anew"}
	}
	switch {
	case e.protection == "on":
		return Finding{name, OK, "on", ""}
	case e.protection == "trial":
		return Finding{name, Warn, "on trial: it reverts by itself unless confirmed",
			"postern-host confirm, from another login"}
	case e.choice.Backend == choose.None && e.machineErr == nil:
		return Finding{name, Skip, "no firewall is to be used", ""}
	case e.machineErr != nil:
		return Finding{name, Skip, "cannot be told", "run it as root"}
	}
	return Finding{name, Warn, "off: strangers see what listens here", "postern-host protect"}
}

func capture(e *examination) Finding {
	const name = "capture"
	switch {
	case !e.Settings.Tunnel.Capture:
		return Finding{name, Warn, "off: who comes from another address than the controller saw stays out",
			"tunnel.capture = true"}
	case e.statusErr != nil:
		return Finding{name, Skip, "known while the agent runs", ""}
	case !e.status.Capture:
		return Finding{name, Fail, "the agent does not capture", "restart it, and look at its log"}
	case e.status.CaptureDropped > 0:
		return Finding{name, Warn, fmt.Sprintf("works; %d datagrams came faster than it read",
			e.status.CaptureDropped), ""}
	}
	return Finding{name, OK, "works", ""}
}

func services(*examination) Finding {
	return Finding{"services", Skip, "the controller knows them, and the host only while a session lives", ""}
}

// blind says why the rules were not looked at.
func (e *examination) blind() string {
	if errors.Is(e.machineErr, firewall.ErrPermission) {
		return "cannot be told without CAP_NET_ADMIN"
	}
	return oneLine(e.machineErr)
}

// oneLine is an error's text on one line.
func oneLine(err error) string {
	return strings.Join(strings.Split(err.Error(), "\n"), "; ")
}
