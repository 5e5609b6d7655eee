# Builds, tests and installs two static musl programs, host-helper and init.
# What is missing is installed first, and named with its reason (.ci/need and .ci/cargo; with sudo where not root).

TARGET ?= $(shell uname -m)-unknown-linux-musl
PREFIX ?= /usr/local
# Of `make run`.
CMD ?=
# Of `make fuzz`: all targets together. KEEP=keep puts what it has found into the repository.
SECONDS ?= 60
KEEP ?=
# Of `make bench`: parts of it (all), rounds of what is fast, a file for the tables as JSON.
ONLY ?=
ROUNDS ?= 200
JSON ?=

OUT := $(abspath $(or $(CARGO_TARGET_DIR),target))
# Programs for another machine than this one have a directory of their own.
BIN := $(OUT)/release$(if $(filter $(shell uname -m)-%,$(TARGET)),,/$(TARGET))
ROOTFS := $(OUT)/rootfs
MACHINE := $(OUT)/machine
MANUALS := $(patsubst docs/%.md,$(OUT)/man/%,$(wildcard docs/*.8.md))
MAN := $(DESTDIR)$(PREFIX)/share/man/man8
DOC := $(DESTDIR)$(PREFIX)/share/doc/hawser
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
# nextest where it is: a process per test, all of them in parallel.
RUNNER = $(shell cargo nextest --version >/dev/null 2>&1 && echo nextest run || echo test --tests)
PEER := what is measured beside ours
# Bytes: init is copied into every image.
INIT_MAX := $(if $(filter aarch64-%,$(TARGET)),35840,32768)

export TARGET
# host-helper/build.rs takes this init instead of building one.
export HAWSER_INIT := $(OUT)/$(TARGET)/init/init

.DEFAULT_GOAL := build
# apt-get and cargo have one lock each.
.NOTPARALLEL:
.PHONY: help build programs run test bench bare fuzz aarch64 oldest check install uninstall clean

help:
	@echo 'make build      both programs, static, in target/release, and their manual pages'
	@echo 'make run        a container on the default network that shows it; CMD=/bin/sh gives a shell in one'
	@echo 'make test       all tests'
	@echo 'make bench      times, rates and memory beside the peers; ONLY=start,ready takes parts of it, JSON=FILE writes them for programs'
	@echo 'make fuzz       made-up input for the parsers, SECONDS=$(SECONDS) long; needs a nightly compiler'
	@echo 'make aarch64    both programs for aarch64, and tests of init under an emulator'
	@echo 'make oldest     all of the source by the oldest compiler that may build it'
	@echo 'make check      format, lints; licences, sources and advisories of the dependencies'
	@echo 'make install    into PREFIX ($(PREFIX)) below DESTDIR'
	@echo 'make uninstall  takes that back'
	@echo 'make clean      removes target'

build: programs $(MANUALS)

programs:
	@.ci/cargo static-core build --locked --package init --bin init --profile init
	@.ci/cargo static-std build --locked --package host-helper --release
	@.ci/check-static $(HAWSER_INIT) $(INIT_MAX)
	@.ci/check-static $(OUT)/$(TARGET)/release/host-helper
	@install -D $(HAWSER_INIT) $(BIN)/init
	@install -D $(OUT)/$(TARGET)/release/host-helper $(BIN)/host-helper

$(OUT)/man/%: docs/%.md .ci/manual
	@.ci/manual $< $@

$(ROOTFS): .ci/rootfs
	@.ci/rootfs $@

run: build $(ROOTFS)
	$(SUDO) $(BIN)/host-helper run $(if $(CMD),,--verbose) --rootfs $(ROOTFS) -- $(or $(CMD),show-network)

# What the network of $(1) is made of.
define need-lab
	@.ci/busybox "the root filesystem and the servers of $(1)"
	@.ci/need dnsmasq dnsmasq-base "the DNS server of $(1)"
	@.ci/need ip iproute2 "links, addresses and routes around $(1)"
endef

# Debian's other init programs.
define need-inits
	@.ci/need tini-static tini "$(1)"
	@.ci/need dumb-init dumb-init "$(1)"
	@.ci/need catatonit catatonit "$(1)"
endef

# Tests find the programs by HOST_HELPER and INIT_BIN, Debian's dockerd and podman below DEBIAN_ROOT, its systemd-resolved below RESOLVED_ROOT, and what they skipped is in tests-skipped.txt.
test: export HOST_HELPER := $(BIN)/host-helper
test: export INIT_BIN := $(BIN)/init
test: export DEBIAN_ROOT := $(OUT)/debian
test: export BARE := $(OUT)/$(TARGET)/release
test: export RESOLVED_ROOT := $(OUT)/resolved
test: export TEST_MACHINE := $(MACHINE)
test: export MUST_WORK ?= $(if $(filter true,$(CI)),1)
test: build bare
	$(call need-lab,the tests)
	@.ci/need radvd radvd "the tests' IPv6 router"
	@.ci/need /lib/systemd/systemd-udevd udev "the tests see that it changes no hardware address"
	@.ci/need nft nftables "the tests' witness of the firewall"
	@.ci/need strace strace "the tests' witness of system calls"
	@.ci/need mandoc mandoc "the tests' reader of manual pages"
	@.ci/need sudo sudo "the tests' maker of a terminal between theirs and a run"
	$(call need-inits,what init stands in for and is compared with)
	@.ci/need iptables-legacy iptables "other firewalls, which the tests have to get on with"
	@.ci/unpack $(OUT)/debian "what the tests drop init into, clients and neighbours of the CNI plugin, and firewalls to get on with" docker.io podman containerd runc crun containernetworking-plugins firewalld dbus-daemon ufw
	@.ci/unpack $(OUT)/resolved "the tests' host whose resolvers change" systemd-resolved
	@.ci/need musl-gcc musl-tools "a program of musl's that looks names up"
	@.ci/machine $(MACHINE)
	@rm -f $(OUT)/tests-skipped.txt
	@.ci/cargo native test --workspace --locked --doc --quiet
	@.ci/cargo native $(RUNNER) --no-fail-fast --workspace --locked
	@! cat $(OUT)/tests-skipped.txt 2>/dev/null || echo 'not all tests ran: see above'

# What runs where there is nothing but a kernel.
bare:
	@.ci/cargo static-std build --locked --package bare --release

# Tables of this machine, see docs/performance.md. Nothing of it starts a daemon outside of its own namespaces.
bench: build bare
	$(call need-lab,what is measured)
	@.ci/need bwrap bubblewrap "$(PEER)"
	@.ci/need iptables iptables "$(PEER)"
	@.ci/need crun crun "$(PEER)"
	@.ci/need runc runc "$(PEER)"
	$(call need-inits,$(PEER))
	@.ci/unpack $(OUT)/peers "$(PEER)" docker.io podman netavark containernetworking-plugins
	@.ci/cargo native build --locked --package tests --bin bench
	@# As they are where they are used: host-helper finds init beside it.
	@$(MAKE) --silent install DESTDIR=$(OUT)/installed PREFIX=/usr/local
	@$(SUDO) env HOST_HELPER=$(OUT)/installed/usr/local/bin/host-helper INIT_BIN=$(BIN)/init BARE=$(OUT)/$(TARGET)/release DEBIAN_ROOT=$(OUT)/peers \
		$(OUT)/debug/bench --rounds $(ROUNDS) $(if $(ONLY),--only $(ONLY)) $(if $(JSON),--json $(JSON))

fuzz:
	@.ci/fuzz $(SECONDS) $(OUT) $(KEEP)

aarch64:
	@.ci/aarch64 $(OUT)

oldest:
	@.ci/oldest $(OUT) $(INIT_MAX)

check:
	@.ci/cargo lint fmt --all --check
	@.ci/cargo lint fmt --manifest-path init/fuzz/Cargo.toml --check
	@.ci/cargo static-core build --locked --package init --bin init --profile init
	@.ci/cargo lint clippy --workspace --all-targets --locked -- --deny warnings
	@.ci/check-dependencies $(OUT)/tools

# Not `build`: under sudo this only copies.
$(BIN)/host-helper $(BIN)/init:
	@$(MAKE) build

install: $(BIN)/host-helper $(BIN)/init
	install -D $(BIN)/host-helper $(DESTDIR)$(PREFIX)/bin/host-helper
	install -D $(BIN)/init $(DESTDIR)$(PREFIX)/libexec/hawser/init
	install -d $(DESTDIR)$(PREFIX)/libexec/cni
	ln -sf ../../bin/host-helper $(DESTDIR)$(PREFIX)/libexec/cni/hawser
	install -D -m 644 -t $(DOC) LICENSE-APACHE LICENSE-MIT README.md docs/operation.md docs/protocol.md \
		docs/reachability.md docs/security.md docs/cluster.md docs/performance.md
	$(if $(wildcard $(MANUALS)),,@echo 'no manual pages: make build makes them')
	$(if $(wildcard $(MANUALS)),install -D -m 644 -t $(MAN) $(MANUALS))

uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/host-helper $(DESTDIR)$(PREFIX)/libexec/cni/hawser
	rm -rf $(DESTDIR)$(PREFIX)/libexec/hawser $(DOC)
	rm -f $(addprefix $(MAN)/,$(notdir $(MANUALS)))

clean:
	rm -rf $(OUT)
