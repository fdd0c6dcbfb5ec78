# The habits of this repository. Every target installs what it lacks (Debian and Ubuntu: by apt).
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

RELEASE := target/release

# Probe=package, for scripts/need.
BUILD := clang=clang llvm-strip=llvm gcc=gcc make=make pkg-config=pkg-config \
	/usr/include/gelf.h=libelf-dev /usr/include/zlib.h=zlib1g-dev
LAB := ip=iproute2 ping=iputils-ping iperf3=iperf3 ethtool=ethtool haproxy=haproxy nsenter=util-linux \
	/usr/lib/cni/bridge=containernetworking-plugins
# For a real Kubernetes; its own programs come by scripts/kubernetes.
KUBERNETES := etcd=etcd-server containerd=containerd runc=runc iptables=iptables busybox=busybox-static \
	strip=binutils tar=tar unshare=util-linux nft=nftables curl=curl openssl=openssl
TESTS := bpftool=bpftool etcd=etcd-server curl=curl python3=python3 python:ensurepip=python3-venv qemu-system-x86_64=qemu-system-x86 \
	busybox=busybox-static ldd=libc-bin

# Tests and lab programs run as root; building does not. Cargo starts what it has built through this.
HOST = $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
AS_ROOT = CARGO_TARGET_$(HOST)_RUNNER=$(CURDIR)/scripts/as-root

.PHONY: help setup setup-build setup-lab setup-kubernetes setup-tests setup-python setup-helm demo demo-down demo-k8s \
	demo-k8s-down test bench lint fmt

help: ## Show this list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1 \t\2/p' $(MAKEFILE_LIST) | expand -t 20

setup: setup-build setup-lab setup-kubernetes setup-tests setup-python setup-helm ## Install everything that the targets need

setup-build:
	@command -v cargo >/dev/null || { echo "cargo is missing: install Rust from https://rustup.rs" >&2; exit 1; }
	@scripts/need $(BUILD)

setup-lab:
	@scripts/need $(LAB)

# Without Kubernetes on the machine this builds it, once: about 10 minutes.
setup-kubernetes: setup-build setup-lab
	@scripts/need $(KUBERNETES)
	@scripts/kubernetes

setup-tests:
	@scripts/need $(TESTS)
	@scripts/guest-kernel

# The original's Python client, unmodified, as its users install it; a test drives the API with it.
setup-python: setup-tests
	@lab/python/setup.sh >/dev/null

# Helm itself lints, renders and installs the chart.
setup-helm: setup-python
	@scripts/helm >/dev/null

demo: setup-build setup-lab ## Two nodes, two networks, policy, speed: on this machine, in namespaces
	cargo build --release -p skein -p skeind -p skein-cni -p skein-lab
	scripts/as-root $(RELEASE)/skein-demo up

demo-down: ## Remove every trace of the demo
	@if [ -x $(RELEASE)/skein-demo ]; then scripts/as-root $(RELEASE)/skein-demo down; \
	else echo "The demo was never built here; nothing to remove."; fi

demo-k8s: setup-kubernetes ## A real three-node Kubernetes with Skein as its network, on this machine
	cargo build --release -p skein -p skeind -p skein-cni -p skein-lab
	scripts/as-root $(RELEASE)/skein-demo k8s-up

demo-k8s-down: ## Remove every trace of that cluster
	@if [ -x $(RELEASE)/skein-demo ]; then scripts/as-root $(RELEASE)/skein-demo k8s-down; \
	else echo "The demo was never built here; nothing to remove."; fi

test: setup-build setup-lab setup-kubernetes setup-tests setup-python setup-helm ## Every test, in namespaces of this machine
	$(AS_ROOT) cargo test --workspace --no-fail-fast

bench: setup-build setup-lab setup-kubernetes ## Speed and memory beside their goals; writes target/bench/*.json
	cargo build --release --bins --examples -p skein -p skeind -p skein-cni -p skein-lab -p skein-datapath -p skein-api
	scripts/as-root $(RELEASE)/skein-bench
	scripts/as-root $(RELEASE)/skein-bench kubernetes

lint: setup-build ## Formatting, clippy without warnings, licences and banned dependencies
	@scripts/need c++=g++
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	scripts/check-dependencies

fmt: ## Format the code
	cargo fmt --all
