#!/bin/sh
# dpkg: remove, upgrade, deconfigure; rpm: 0 for the last, 1 for an upgrade.
set -e

case "${1:-}" in
remove | 0) ;;
*) exit 0 ;; # an upgrade: the controller goes on until the new one takes over
esac

units="postern-controller.path postern-controller.service postern-controller-firewall.service"
if [ -d /run/systemd/system ]; then
	# shellcheck disable=SC2086
	systemctl stop $units || true
fi
if [ "$1" = 0 ] && command -v systemctl >/dev/null 2>&1; then
	# shellcheck disable=SC2086
	systemctl --no-reload disable $units >/dev/null 2>&1 || true
fi

# Without the controller nobody could be let in any more: rather open than locked.
echo "postern-controller: REMOVING THE PROTECTION of this machine: what listens here can be reached again" >&2
if ! postern-controller firewall down >&2; then
	echo "postern-controller: THE PROTECTION MAY STILL BE THERE, with nobody to open a door in it;" >&2
	cat >&2 <<-'END'
		postern-controller: before you log out, for rules in nftables:
		  nft delete table inet postern_controller
		and for rules in iptables (iptables-save shows those of POSTERN_CONTROLLER; or iptables-legacy):
		  for c in INPUT OUTPUT FORWARD; do iptables -t mangle -F POSTERN_CONTROLLER-$c; ip6tables -t mangle -F POSTERN_CONTROLLER-$c; done
		with another firewall.table in controller.toml, its name, in capitals for iptables, instead of postern_controller
	END
fi
