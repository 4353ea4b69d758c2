#!/bin/sh
# dpkg: remove, upgrade, deconfigure; rpm: 0 for the last, 1 for an upgrade.
set -e

case "${1:-}" in
remove | 0) ;;
*) exit 0 ;; # an upgrade: the agent goes on until the new one takes over
esac

# Without the agent nobody could be let in any more: rather open than locked. This comes
# before anything else: whoever is logged in through a tunnel is cut off when the agent
# stops, and with the login what it has begun.
echo "postern-host: REMOVING THE PROTECTION of this machine: what listens here can be reached again" >&2
if ! postern-host unprotect --yes >&2; then
	echo "postern-host: THE PROTECTION MAY STILL BE THERE, with nobody to open a door in it;" >&2
	cat >&2 <<-'END'
		postern-host: before you log out, for rules in nftables:
		  nft delete table inet postern
		and for rules in iptables (iptables-save shows those of POSTERN; or iptables-legacy):
		  for c in INPUT OUTPUT FORWARD; do iptables -t mangle -F POSTERN-$c; ip6tables -t mangle -F POSTERN-$c; done
		with another firewall.table in host.toml, its name, in capitals for iptables, instead of postern
	END
fi

if [ -d /run/systemd/system ]; then
	systemctl stop postern-host.path postern-host.service postern-host-firewall.service || true
fi
if [ "$1" = 0 ] && command -v systemctl >/dev/null 2>&1; then
	systemctl --no-reload disable postern-host.path postern-host.service postern-host-firewall.service \
		>/dev/null 2>&1 || true
fi
