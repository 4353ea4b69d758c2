#!/bin/sh
# Builds .deb and .rpm of the client, the host agent and the controller into dist/.
# `make packages` calls it with VERSION. Optional: PACKAGE_VERSION, PACKAGE_ARCHES,
# PACKAGE_FORMATS, DIST.
set -eu
cd "$(dirname "$0")/../.."
GO=${GO:-go}
DIST=${DIST:-dist}
VERSION=${VERSION:-dev}
nfpm=v2.43.0
names="postern postern-host postern-controller"

# A package's version begins with a digit and has no '-'; an untagged one sorts
# before every release, and a candidate before its release.
if [ -z "${PACKAGE_VERSION:-}" ]; then
	case $VERSION in
	v[0-9]*) PACKAGE_VERSION=$(echo "${VERSION#v}" | sed -e 's/-\(alpha\|beta\|rc\)/~\1/' -e 's/-/./g') ;;
	*) PACKAGE_VERSION="0~git.$(echo "$VERSION" | tr - .)" ;;
	esac
fi
export PACKAGE_VERSION
# The same commit gives the same packages.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 1700000000)}
export SOURCE_DATE_EPOCH

mkdir -p "$DIST/tools" "$DIST/completion" "$DIST/man"
DIST=$(cd "$DIST" && pwd)
export DIST
GOBIN="$DIST/tools" $GO install "github.com/goreleaser/nfpm/v2/cmd/nfpm@$nfpm"

build() { # build GOARCH FOLDER
	for name in $names; do
		CGO_ENABLED=0 GOOS=linux GOARCH=$1 $GO build -trimpath \
			-ldflags "-s -w -X github.com/postern-sdp/postern/internal/version.Version=$VERSION" \
			-o "$DIST/$2/$name" "./cmd/$name"
	done
}
native=$($GO env GOHOSTARCH)
build "$native" "$native"
for name in $names; do
	for shell in bash zsh fish; do
		"$DIST/$native/$name" completion $shell >"$DIST/completion/$name.$shell"
	done
	rm -rf "$DIST/man/$name"
	"$DIST/$native/$name" man --dir "$DIST/man/$name"
	gzip -9n "$DIST/man/$name"/*
done
for GOARCH in ${PACKAGE_ARCHES:-amd64 arm64}; do
	export GOARCH
	[ "$GOARCH" = "$native" ] || build "$GOARCH" "$GOARCH"
	for name in $names; do
		for format in ${PACKAGE_FORMATS:-deb rpm}; do
			"$DIST/tools/nfpm" package --config "configs/packages/$name.yaml" \
				--packager "$format" --target "$DIST/"
		done
	done
done
