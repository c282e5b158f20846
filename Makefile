# Every command of the project. `make demo` and `make test` set up what is missing.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
CARGO ?= cargo
TOOLCHAIN := .toolchain
# The pinned compiler, so that figures compare; CUDA_HOME of the machine is used only without it.
ENV = $(if $(wildcard $(TOOLCHAIN)/cuda/bin/nvcc),QWEN2VL_CUDA_HOME=$(CURDIR)/$(TOOLCHAIN)/cuda)
DEMO := assets/demo
DEMO_IMAGE := $(DEMO)/media/pair.png
DEMO_PROMPT := Describe this image.
TEST_FLAGS ?=
# The formatter of kernels and the speller, pinned as the compiler is.
LINT := $(TOOLCHAIN)/lint
KERNELS = $(wildcard kernels/*.cu kernels/include/*)

.PHONY: help toolchain build demo test test-full bench lint lint-tools fmt doc deny gpu-check gpu-pack clean

help: ## List the commands
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*##/\t/' | expand -t 14

toolchain: ## Fetch the pinned CUDA compiler and libclang into .toolchain (once)
	@tools/toolchain/fetch.sh $(TOOLCHAIN)

build: toolchain ## Build the release binary
	$(ENV) $(CARGO) build --release --bin qwen2vl

demo: build ## Answer a question about a sample picture
	@echo '$$ qwen2vl run $(DEMO)/model --image $(DEMO_IMAGE) "$(DEMO_PROMPT)"'
	@target/release/qwen2vl run $(DEMO)/model --image $(DEMO_IMAGE) "$(DEMO_PROMPT)"

test: toolchain ## Run every test
	$(ENV) INSTA_UPDATE=no $(CARGO) test --profile ci --workspace $(TEST_FLAGS)

test-full: toolchain ## Run every test, with 1,024 cases a property
	$(ENV) INSTA_UPDATE=no PROPTEST_CASES=1024 $(CARGO) test --profile ci --workspace $(TEST_FLAGS) -- --include-ignored

bench: toolchain ## Run the benches; ROWS=text picks rows
	$(ENV) $(CARGO) bench --workspace -- $(ROWS)

lint: lint-tools ## Check formats, lints and spelling
	$(CARGO) fmt --all --check
	$(LINT)/bin/clang-format --dry-run --Werror $(KERNELS)
	$(LINT)/bin/typos
	$(ENV) $(CARGO) clippy --profile ci --workspace --all-targets -- -D warnings
	$(ENV) $(CARGO) clippy --profile ci --lib --features jpeg-zune -- -D warnings

fmt: lint-tools ## Repair formats
	$(CARGO) fmt --all
	$(LINT)/bin/clang-format -i $(KERNELS)

lint-tools: toolchain
	@tools/toolchain/lint.sh $(LINT)

doc: toolchain ## Build the documents, warnings are errors
	$(ENV) RUSTDOCFLAGS="-D warnings" $(CARGO) doc --profile ci --workspace --no-deps

deny: ## Licences and advisories of dependencies (needs cargo-deny and a network)
	$(CARGO) deny check

gpu-check: toolchain ## Kernel tests and compute-sanitizer on this machine's GPU
	$(ENV) tools/gpu/check.sh

gpu-pack: toolchain ## Pack tests and benches for a machine with a GPU
	$(ENV) tools/gpu/pack.sh

clean: ## Remove build output (not the toolchain)
	$(CARGO) clean
