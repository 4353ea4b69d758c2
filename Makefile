# Postern: `make demo` shows it, `make test` checks it. Both install what they
# need from Debian's packages when they run as root on Debian.
GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS  = -s -w -X github.com/postern-sdp/postern/internal/version.Version=$(VERSION)
COMMANDS = postern postern-controller postern-host postern-lab
FUZZTIME ?= 5s
TIMES   ?= 50

export CGO_ENABLED = 0

.PHONY: all build build-all man packages dist cross test test-race fuzz demo roam bench lint deps clean

all: build

build: $(COMMANDS:%=bin/%)

bin/%: FORCE
	@mkdir -p bin
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $@ ./cmd/$*

FORCE:

# .deb and .rpm of the client, the host agent and the controller, into dist/.
packages:
	GO='$(GO)' VERSION='$(VERSION)' configs/packages/build.sh

# The manual, of the commands' own help: bin/man/postern.1 and the others.
man: $(COMMANDS:%=bin/%)
	for name in postern postern-host postern-controller; do bin/$$name man --dir bin/man || exit 1; done

# The client for each machine that it runs on, one static binary each, into dist/OS_ARCH/.
build-all:
	GO='$(GO)' VERSION='$(VERSION)' configs/packages/archives.sh build

# The same with licence and README, as archives with SHA256SUMS, into dist/.
dist:
	GO='$(GO)' VERSION='$(VERSION)' configs/packages/archives.sh

# The client's tests for other machines: vet, wine and qemu.
cross: deps
	GO='$(GO)' .ci/cross

# Everything the README promises: unit, conformance in network namespaces and
# end-to-end with the real binaries, all under the race detector, then the fuzz
# targets for a short fixed time.
test: deps build build-all cross test-race fuzz

# The race detector is the one thing here that needs cgo.
test-race:
	CGO_ENABLED=1 $(GO) test -race -timeout 20m ./...

fuzz:
	FUZZTIME=$(FUZZTIME) GO=$(GO) .ci/fuzz

demo: deps build
	bin/postern-lab demo

# What a transfer feels of changes of the client's path, sleep and restarts, each TIMES
# times. It fails when a byte is lost or a stall is longer than promised.
roam: deps build
	bin/postern-lab roam --times $(TIMES)

bench: deps build
	GO=$(GO) .ci/bench

lint:
	GO=$(GO) .ci/lint

# What the tests and the demo use besides Go: a C compiler for the race
# detector, the real sshd, nft to compare rule sets with.
deps:
	@.ci/deps

clean:
	rm -rf bin dist
