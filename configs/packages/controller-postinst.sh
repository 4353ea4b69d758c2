#!/bin/sh
# dpkg: configure [OLD-VERSION], abort-*; rpm: 1 for the first, 2 for an upgrade.
set -e

case "${1:-}" in
configure | abort-upgrade | abort-remove | abort-deconfigure | 1 | 2) ;;
*) exit 0 ;;
esac

if command -v systemd-sysusers >/dev/null 2>&1; then
	systemd-sysusers postern-controller.conf
elif ! getent passwd postern >/dev/null; then
	useradd --system --user-group --no-create-home --home-dir /var/lib/postern-controller \
		--shell /usr/sbin/nologin postern
fi

# Enabled, so that each boot looks whether there is a controller here; an
# administrator's disabling is respected on upgrades.
units="postern-controller.service postern-controller.path postern-controller-firewall.service"
if command -v deb-systemd-helper >/dev/null 2>&1; then
	for unit in $units; do
		deb-systemd-helper unmask "$unit" >/dev/null || true
		if deb-systemd-helper --quiet was-enabled "$unit"; then
			deb-systemd-helper enable "$unit" >/dev/null || true
		else
			deb-systemd-helper update-state "$unit" >/dev/null || true
		fi
	done
elif [ "${1:-}" = 1 ] && command -v systemctl >/dev/null 2>&1; then
	# shellcheck disable=SC2086
	systemctl --no-reload enable $units >/dev/null 2>&1 || true
fi

if [ -d /run/systemd/system ]; then
	systemctl daemon-reload || true
	systemd-tmpfiles --create postern-controller.conf || true
	systemctl start postern-controller.path || true
	# Its condition keeps it from starting where none was made. The firewall's
	# rules outlive the old one, and the new one goes on with its sessions.
	systemctl restart postern-controller.service || true
fi
