# Every target sets up what it needs: a fresh machine has Python 3.11 or later, make, and nothing else.
PYTHON ?= python3
BIN := .venv/bin
# One exact version: pip then takes a build for the CPU where one is offered (see README, "Set-up").
TORCH ?= torch==2.13.0

# make masks CKPT=model.safetensors SPARSITY="0.5 0.75" ARGS="--allocation global"
CKPT ?= checkpoints/demo.safetensors
SPARSITY ?= 0.5 0.75
OUT ?= masks
ARGS ?=

.PHONY: help setup masks test test-slow check lint types bench clean
help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: .venv  ## make .venv with everything to run and test
.venv: .venv/ready
.venv/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than Python 3.11; fix: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '$(TORCH)'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	$(BIN)/python -m pruning.engine.radix  # compile the kernels once
	@touch $@

checkpoints/demo.safetensors: | .venv
	$(BIN)/python -m experiments.demo_checkpoint $@

masks: .venv $(CKPT)  ## compute the masks of CKPT, a small checkpoint made on the spot if not given
	$(BIN)/wafersparse masks '$(CKPT)' $(SPARSITY:%=--sparsity %) --out '$(OUT)' $(ARGS)

test: .venv  ## the default tests, within two minutes
	$(BIN)/python -m pytest -n auto

test-slow: .venv  ## what needs minutes or a package index
	$(BIN)/python -m pytest -m slow

check: .venv lint types test  ## what CI runs: lint, types, tests
lint: .venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
types: .venv
	$(BIN)/mypy

bench: .venv  ## side-by-side benchmarks, written to docs/benchmarks.md; needs 26 GB of disk, about 20 minutes
	$(BIN)/python tests/benchmarks/bench.py $(ARGS)

clean:  ## remove what make made, but no masks
	rm -rf .venv checkpoints/demo.safetensors bench
