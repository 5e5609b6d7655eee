# Two static musl programs: target/release/host-helper and target/release/init.
# What is missing is installed first (.ci/need, with sudo where needed) and named with its reason.

TARGET ?= $(shell uname -m)-unknown-linux-musl
PREFIX ?= /usr/local
OUT := $(or $(CARGO_TARGET_DIR),target)
BIN := $(OUT)/release
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
INIT_MAX := 24576
export TARGET
# host-helper/build.rs takes this one instead of building init a second time.
export HAWSER_INIT := $(abspath $(OUT)/$(TARGET)/init/init)

.PHONY: help build run test check install uninstall clean

help:
	@echo 'make build      $(BIN)/host-helper and $(BIN)/init, static musl programs'
	@echo 'make run        a container on the default network that shows it; CMD=/bin/sh for a shell in one'
	@echo 'make test       all tests'
	@echo 'make check      format, lints, licences and advisories of the dependencies'
	@echo 'make install    into PREFIX=$(PREFIX), below DESTDIR'
	@echo 'make uninstall  takes that back'
	@echo 'make clean      removes $(OUT)'

build:
	.ci/cargo static-core build --locked --package init --bin init --profile init
	.ci/check-static $(HAWSER_INIT) $(INIT_MAX)
	.ci/cargo static-std build --locked --package host-helper --release
	.ci/check-static $(OUT)/$(TARGET)/release/host-helper
	install -D $(HAWSER_INIT) $(BIN)/init
	install -D $(OUT)/$(TARGET)/release/host-helper $(BIN)/host-helper

clean:
	rm -rf $(OUT)
