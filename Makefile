# Candor. `make demo` and `make test` are all that a fresh clone needs; everything they use is pinned and comes from package registries.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

FORGE := contracts/tools/forge
TOOLS := node_modules/.package-lock.json
KEYS := candor-tests/aws,candor-relayer/gcp,candor-relayer/ledger

.PHONY: help setup demo test test-rust test-contracts bench same-bits aarch64 gpu gpu-build keys gas lint fmt freeze train doc clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(TOOLS) ## Foundry's tools and solc, pinned in package.json
# Not `npm ci`: it wants the packages of all platforms in the lock, and a registry may have only some of them.
$(TOOLS): package.json package-lock.json
	npm install --no-save --no-audit --no-fund
	@touch $@

demo: $(TOOLS) ## the main job, narrated: a contract asks, candle answers, the answer is signed, posted, delivered and final
	cargo run --release --quiet --bin candor -- demo $(ARGS)

test: test-contracts test-rust ## all tests: Solidity, Rust, end to end on anvil

test-contracts: $(TOOLS) ## the Solidity tests
	$(FORGE) test

test-rust: $(TOOLS) ## the Rust tests, end to end on anvil among them
	cargo test --workspace --no-fail-fast

bench: ## this machine's speed beside candle's own kernels
	cargo bench --bench engine

same-bits: ## a debug and a release build give the same model ids, answers and trace roots on every instruction set
	tools/same-bits

aarch64: ## the reference and the kernels on another architecture: cross-compiled, run under QEMU, held to the same golden vectors
	tools/aarch64

gpu: ## compiles the GPU kernels and all that is for GPUs, and looks through it, without a GPU; NVIDIA's compiler comes from PyPI
	tools/cuda/setup
	source tools/cuda/env.sh && tools/cuda/check && tools/cuda/lint

gpu-build: ## the whole of it with the feature `cuda`, candle's own kernels included, into target/cuda
	tools/cuda/setup
	source tools/cuda/env.sh && CARGO_TARGET_DIR=target/cuda cargo build --release --locked --workspace --features candor-relayer/cuda --bin candor

keys: $(TOOLS) ## keys in a KMS and on a Ledger: all of it is built and looked through, and AWS's is tested against a service on this machine
	cargo clippy --workspace --all-targets --features $(KEYS) -- -D warnings
	cargo build --workspace --features $(KEYS) --bin candor
	cargo test --workspace --features $(KEYS) --test kms
	cargo test --workspace --features $(KEYS) --lib keys

gas: $(TOOLS) ## gas of whole transactions, compared with the frozen table
	contracts/tools/gas --check

lint: $(TOOLS) ## formatting, clippy, documentation, frozen artifacts
	cargo fmt --all --check
	$(FORGE) fmt --check
	FOUNDRY_PROFILE=lint $(FORGE) lint contracts/src --deny warnings
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet
	contracts/tools/freeze --check

fmt: $(TOOLS) ## formats everything
	cargo fmt --all
	$(FORGE) fmt

freeze: $(TOOLS) ## writes the compiled contracts into sdk/artifacts and the gas table, after a change of the contracts
	contracts/tools/freeze
	contracts/tools/gas

train: ## trains the embedded models again from public data, into target/train, and compares them with the committed ones
	relayer/models/fetch.sh target/data
	cargo run --release --example train_credit -- --data target/data
	cargo run --release --example train_digits -- --data target/data

doc: ## the Rust documentation
	cargo doc --workspace --no-deps

clean: ## removes what was built
	rm -rf target out cache node_modules
