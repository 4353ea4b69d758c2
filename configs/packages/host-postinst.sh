#!/bin/sh
# dpkg: configure [OLD-VERSION], abort-*; rpm: 1 for the first, 2 for an upgrade.
set -e

case "${1:-}" in
configure | abort-upgrade | abort-remove | abort-deconfigure | 1 | 2) ;;
*) exit 0 ;;
esac

if command -v systemd-sysusers >/dev/null 2>&1; then
	systemd-sysusers postern-host.conf
elif ! getent passwd postern-host >/dev/null; then
	useradd --system --user-group --no-create-home --home-dir /var/lib/postern-host \
		--shell /usr/sbin/nologin postern-host
fi

# Enabled, so that each boot looks whether the machine is enrolled and protected; an
# administrator's disabling is respected on upgrades.
units="postern-host.service postern-host.path postern-host-firewall.service"
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
	systemd-tmpfiles --create postern-host.conf || true
	systemctl start postern-host.path || true
	# Its condition keeps it from starting where nobody has enrolled. The firewall's
	# rules outlive the old agent, and the new one adopts what is open.
	systemctl restart postern-host.service || true
fi
