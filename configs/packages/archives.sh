#!/bin/sh
# Builds the client for each machine that it runs on into dist/OS_ARCH/ and packs it with
# licence and README into dist/postern_VERSION_OS_ARCH.tar.gz, or .zip for Windows, with
# dist/SHA256SUMS. `make dist` calls it with VERSION; `archives.sh build` packs nothing.
# The same commit gives the same bytes. Optional: PLATFORMS, DIST.
set -eu
cd "$(dirname "$0")/../.."
GO=${GO:-go}
VERSION=${VERSION:-dev}
DIST=${DIST:-dist}
PLATFORMS=${PLATFORMS:-linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 1700000000)}
export CGO_ENABLED=0 TZ=UTC LC_ALL=C

mkdir -p "$DIST"
DIST=$(cd "$DIST" && pwd)
if [ "${1:-}" != build ]; then
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	rm -f "$DIST"/postern_*.tar.gz "$DIST"/postern_*.zip "$DIST/SHA256SUMS"
fi
for platform in $PLATFORMS; do
	os=${platform%/*} arch=${platform#*/}
	binary=postern
	[ "$os" != windows ] || binary=postern.exe
	echo "dist: $os/$arch"
	GOOS=$os GOARCH=$arch $GO build -trimpath -buildvcs=false \
		-ldflags "-s -w -X github.com/postern-sdp/postern/internal/version.Version=$VERSION" \
		-o "$DIST/${os}_$arch/$binary" ./cmd/postern
	[ "${1:-}" != build ] || continue

	name="postern_${VERSION#v}_${os}_$arch"
	mkdir -m 755 "$work/$name"
	install -m 755 "$DIST/${os}_$arch/$binary" "$work/$name/$binary"
	install -m 644 LICENSE README.md CHANGELOG.md "$work/$name/"
	find "$work/$name" -exec touch -d "@$SOURCE_DATE_EPOCH" {} +
	if [ "$os" = windows ]; then
		(cd "$work" && find "$name" -type f | sort | zip -q -X -9 "$DIST/$name.zip" -@)
	else
		tar -C "$work" --sort=name --owner=0 --group=0 --numeric-owner --format=ustar -cf - "$name" |
			gzip -n -9 >"$DIST/$name.tar.gz"
	fi
done
[ "${1:-}" = build ] || (cd "$DIST" && sha256sum postern_*.tar.gz postern_*.zip >SHA256SUMS)
