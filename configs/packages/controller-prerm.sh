#!/bin/sh
# dpkg: remove, upgrade, deconfigure; rpm: 0 for the last, 1 for an upgrade.
set -e

case "${1:-}" in
remove | 0) ;;
*) exit 0 ;; # an upgrade: the controller goes on until the new one takes over
esac

if [ -d /run/systemd/system ]; then
	systemctl stop postern-controller.path postern-controller.service || true
fi
if [ "$1" = 0 ] && command -v systemctl >/dev/null 2>&1; then
	systemctl --no-reload disable postern-controller.path postern-controller.service >/dev/null 2>&1 || true
fi

# Without the controller nobody could be let in any more: rather open than locked.
table=postern_controller
if command -v nft >/dev/null 2>&1; then
	if nft list table inet $table >/dev/null 2>&1; then
		echo "postern-controller: REMOVING THE PROTECTION of this machine: what listens here can be reached again" >&2
		nft delete table inet $table || true
	fi
else
	echo "postern-controller: if this machine was protected it STILL IS, with nobody to open a door;" >&2
	echo "postern-controller: before you log out, install nftables: nft delete table inet $table" >&2
fi
