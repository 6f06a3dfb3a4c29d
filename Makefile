# The developer's and the user's commands. Everything that is missing is installed on Debian and
# Ubuntu; elsewhere it is named.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
EXTERNALS := $(CURDIR)/dist/externals
PLUGINS := ebpf-net ebpf-bash ebpf-conntrack
# Tests run as root, and root takes plugins from root only.
ROOT_EXTERNALS := $(TARGET)/externals
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

# The allocator is built for one size of pages, and kernels for arm64 have pages of up to 64 KiB.
ifeq ($(shell uname -m),aarch64)
export JEMALLOC_SYS_WITH_LG_PAGE := 16
endif

# Debian's names of what each command needs.
BUILD_PACKAGES := clang llvm libclang-dev libbpf-dev gcc libc6-dev
TEST_PACKAGES := bind9-dnsutils bsdutils curl dnsmasq-base golang-go iproute2 libcap2-bin ncat \
	nftables nginx-light nodejs openssh-client openssh-server openssl procps python3 \
	python3-aiohttp python3-grpcio redis-server redis-tools socat tmux wget wrk zsh
BENCH_PACKAGES := fio
VM_PACKAGES := qemu-system-x86 debootstrap busybox-static cpio e2fsprogs kmod python3 xz-utils zstd
# What the machines of the matrix have of what tests need, and what tests build with there.
VM_ROOT_PACKAGES = gcc libc6-dev $(filter-out golang-go nodejs openssh-client openssh-server \
	python3-aiohttp python3-grpcio,$(TEST_PACKAGES))
CHECK_PACKAGES := clang-format

C_FILES := $(shell git ls-files 'bpf/*.c' 'bpf/*.h' 'examples/*.c' 2>/dev/null)

# How long `fuzz` runs each decoder.
SECONDS_EACH ?= 30

# The kernel matrix: kernels out of Debian's suites, and what plugins may not use there. Empty
# TESTS: all that tests/vm/tests.list names.
KERNELS ?= 5.10 6.1 6.12 6.18 7.3
POLICIES ?= auto no-tp-btf
TESTS ?=
MACHINES ?= 2
UPDATE ?=

.PHONY: run test fuzz check build package bench soak vm-test clean root-externals need-build \
	need-test need-bench need-vm need-check

## run: this host's live traffic on the terminal, loopback included; needs no backend. Whoever
## builds a plugin here and runs it as root trusts it.
run: build
	@$(SUDO) $(EXTERNALS)/datakit-ebpf run --enabled ebpf-net --output console --include-loopback \
		--trust-any-plugin

## build: dist/externals, ready to be put into DataKit's externals folder
build: need-build
	DATAKIT_EBPF_BUILD_DATE=$$(date -u +%Y-%m-%d) $(CARGO) build --release --locked \
		-p host $(addprefix -p ,$(PLUGINS))
	mkdir -p $(EXTERNALS)/ebpf-plugins
	install -m 755 $(TARGET)/release/datakit-ebpf $(EXTERNALS)/
	install -m 644 $(foreach plugin,$(subst -,_,$(PLUGINS)),$(TARGET)/release/lib$(plugin).so) \
		$(EXTERNALS)/ebpf-plugins/
	install -m 644 conf/ebpf.conf.sample $(EXTERNALS)/

## package: the same as a tarball
package: build
	tar -C dist --owner=0 --group=0 --numeric-owner -czf dist/datakit-ebpf-$$(uname -m).tar.gz externals

## test: everything, as root: unit tests, then the real host with real plugins and real traffic
test: build need-test root-externals
	$(SUDO) env PATH="$$PATH" CARGO=$(CARGO) CARGO_TARGET_DIR=$(TARGET) \
		EXTERNALS_DIR=$(ROOT_EXTERNALS) tests/run.sh

## fuzz: each decoder against mutated input, with checked arithmetic; SECONDS_EACH=30
fuzz: need-build
	FUZZ_SECONDS=$(SECONDS_EACH) $(CARGO) test --release --locked -p plugin-proto --test fuzz \
		--config profile.release.package.plugin-proto.overflow-checks=true \
		-- --ignored --nocapture --test-threads=1

# $(call run-as-root,PROGRAM,SETTINGS): a program of the system tests, against what was just built.
run-as-root = $(SUDO) env PATH="$$PATH" CARGO_TARGET_DIR=$(TARGET) EXTERNALS_DIR=$(ROOT_EXTERNALS) $(2) \
	$(CARGO) run --release --locked --quiet -p system-tests --bin $(1)

## bench: what it costs, with and without in turn; ROUNDS=16, ONLY=nginx for one load alone. It
## writes the figures of docs/performance.md, unless ONLY is given
bench: build need-test need-bench root-externals
	$(call run-as-root,bench,ROUNDS=$(ROUNDS) ONLY=$(ONLY))

## soak: many processes, connections, namespaces and containers for MINUTES=30, after which nothing
## may have grown
soak: build need-test root-externals
	$(call run-as-root,soak,MINUTES=$(MINUTES))

## vm-test: the system tests on other kernels, emulated; KERNELS="6.1 6.12" POLICIES=auto TESTS=dnsflow
vm-test: build need-vm root-externals
	$(SUDO) env PATH="$$PATH" CARGO_TARGET_DIR=$(TARGET) TARGET=$(TARGET) CACHE=$(TARGET)/vm-cache \
		EXTERNALS=$(ROOT_EXTERNALS) PACKAGES='$(VM_ROOT_PACKAGES)' KERNELS='$(KERNELS)' \
		POLICIES='$(POLICIES)' TESTS='$(TESTS)' MACHINES=$(MACHINES) UPDATE=$(UPDATE) \
		tests/vm/run.sh

## check: formats, lints and documentation
check: need-build need-check
	$(CARGO) fmt --all --check
	$(CARGO) fmt --check --manifest-path examples/exec-log/Cargo.toml
	clang-format --dry-run -Werror $(C_FILES)
	$(CARGO) clippy --release --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --release --locked --workspace --no-deps
	@command -v cargo-deny >/dev/null || $(CARGO) install --locked --quiet cargo-deny || exit 0
	@if ! command -v cargo-deny >/dev/null; then \
		echo 'cargo-deny cannot be installed here: dependencies are not checked'; \
	else \
		$(CARGO) deny --all-features check bans licenses sources; \
		if $(CARGO) deny fetch db 2>/dev/null; then $(CARGO) deny check advisories; \
		else echo 'no advisory database can be had here: advisories are not checked'; fi; \
	fi

root-externals: build
	$(SUDO) rm -rf $(ROOT_EXTERNALS)
	$(SUDO) cp -r $(EXTERNALS) $(ROOT_EXTERNALS)

clean:
	$(CARGO) clean
	rm -rf dist

# A mirror that hangs is asked again; another apt that runs is waited for.
APT_PATIENCE := -o Acquire::http::Timeout=30 -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300

# $(call need,PACKAGES): installs those that are missing. Packages with a server must not start
# it, so a policy says no while apt runs, unless the host has a policy of its own.
define need
	@missing=(); \
	if ! command -v dpkg-query >/dev/null; then \
		echo 'not a Debian or Ubuntu: please install the equivalents of: $(1)'; \
	else for package in $(1); do \
		dpkg-query -W -f='$${Status}' "$$package" 2>/dev/null | grep -q '^install ok' \
			|| missing+=("$$package"); \
	done; fi; \
	if (($${#missing[@]})); then \
		echo "installing $${missing[*]}"; \
		policy=/usr/sbin/policy-rc.d; \
		if [[ ! -e $$policy ]]; then \
			trap "$(SUDO) rm -f $$policy" EXIT; \
			printf '#!/bin/sh\nexit 101\n' | $(SUDO) tee $$policy >/dev/null; \
			$(SUDO) chmod 755 $$policy; \
		fi; \
		$(SUDO) apt-get $(APT_PATIENCE) update -qq; \
		$(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get $(APT_PATIENCE) install -y -qq \
			--no-install-recommends "$${missing[@]}" >/dev/null; \
	fi
endef

need-build:
	$(call need,$(BUILD_PACKAGES))
	@command -v $(CARGO) >/dev/null || { echo 'Rust is missing: see https://rustup.rs'; exit 1; }

need-test:
	$(call need,$(TEST_PACKAGES))

need-bench:
	$(call need,$(BENCH_PACKAGES))

need-vm:
	$(call need,$(VM_PACKAGES))

need-check:
	$(call need,$(CHECK_PACKAGES))
