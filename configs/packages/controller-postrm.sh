#!/bin/sh
# dpkg: remove, purge, upgrade, ...; rpm: 0 for the last, 1 for an upgrade.
set -e

case "${1:-}" in
remove | 0)
	if [ -d /run/systemd/system ]; then
		systemctl daemon-reload || true
	fi
	;;
purge)
	if command -v deb-systemd-helper >/dev/null 2>&1; then
		for unit in postern-controller.service postern-controller.path postern-controller-firewall.service; do
			deb-systemd-helper purge "$unit" >/dev/null || true
			deb-systemd-helper unmask "$unit" >/dev/null || true
		done
	fi
	# The authority, its keys and all records, and the file that init made. The
	# account stays, as its number must not become somebody else's.
	rm -rf /var/lib/postern-controller /run/postern-controller
	rm -f /etc/postern/controller.toml
	rmdir --ignore-fail-on-non-empty /etc/postern 2>/dev/null || true
	;;
esac
