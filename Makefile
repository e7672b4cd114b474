# Every target sets up what it needs: a fresh machine has Python 3.11 or later, make, and nothing else.
PYTHON ?= python3
BIN := .venv/bin
# cerebras-pytorch is built for Linux on x86-64 and this Python alone.
PYTHON311 ?= python3.11
CEREBRAS := .venv-cerebras/bin
# One exact version: pip then takes a build for the CPU where one is offered (see README, "Set-up").
TORCH ?= torch==2.13.0

# make masks CKPT=model.safetensors SPARSITY="0.5 0.75" ARGS="--allocation global"
CKPT ?= checkpoints/demo.safetensors
SPARSITY ?= 0.5 0.75
OUT ?= masks
ARGS ?=

# The last checkpoint of configs/gpt2_1m.yaml.
DENSE := runs/gpt2_1m/checkpoint_1000.mdl

.PHONY: help setup masks test test-slow test-cerebras dense check lint types bench clean demo study
help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 15

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

test: .venv  ## the default tests, two to four minutes on two cores
	$(BIN)/python -m pytest -n auto

test-slow: .venv  ## what needs minutes or a package index
	$(BIN)/python -m pytest -m slow -n 2

test-cerebras:  ## against cerebras-pytorch's own classes, in .venv-cerebras: 7 GB, Linux x86-64, Python 3.11
	@if [ "$$(uname -sm)" != "Linux x86_64" ]; then \
	  echo "test-cerebras: skipped: cerebras-pytorch is built for Linux on x86-64, this is $$(uname -sm)"; \
	elif ! $(PYTHON311) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2> /dev/null; then \
	  echo "test-cerebras: skipped: cerebras-pytorch needs Python 3.11, and $(PYTHON311) is none;" \
	    "name one: make test-cerebras PYTHON311=/path/to/python3.11"; \
	else $(MAKE) --no-print-directory .venv-cerebras/tested; fi

.venv-cerebras/ready: pyproject.toml
	$(PYTHON311) -m venv .venv-cerebras
	$(CEREBRAS)/python -m pip install --quiet --disable-pip-version-check cerebras-pytorch==2.10.0 numba \
	  safetensors==0.4.5 click==8.3.0 tqdm==4.66.5 matplotlib==3.9.2 pytest pytest-xdist hypothesis
	$(CEREBRAS)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

# Not a file: the tests run every time. The vendor's tracer calls programs by name, so they are put on the path.
.PHONY: .venv-cerebras/tested
.venv-cerebras/tested: .venv-cerebras/ready
	$(CEREBRAS)/python -c 'import cerebras.pytorch'
	PATH="$(CURDIR)/$(CEREBRAS):$$PATH" OMP_NUM_THREADS=1 $(CEREBRAS)/python -m pytest -n auto -m cerebras

data/stdlib: | .venv
	$(BIN)/wafersparse data stdlib --out $@

dense: .venv data/stdlib  ## train the dense baseline, 5 minutes of one core; again: goes on, or says it is done
	@if [ -e $(DENSE) ]; then \
	  echo "dense: done: $(DENSE); $(BIN)/wafersparse validate configs/gpt2_1m.yaml --target_device CPU" \
	    "-o runs/gpt2_1m_again --checkpoint_path $(DENSE) measures it again"; \
	else $(BIN)/wafersparse fit configs/gpt2_1m.yaml --target_device CPU -o runs/gpt2_1m; fi

# The demo's dense run, shorter than `make dense`.
SHORT := runs/gpt2_1m_short/checkpoint_300.mdl
$(SHORT): | .venv data/stdlib
	$(BIN)/wafersparse fit configs/gpt2_1m_short.yaml --backend torch --target_device CPU -o runs/gpt2_1m_short

demo: .venv $(SHORT)  ## a whole sweep, dense to comparison: 6 minutes on two idle cores, set-up and all
	OMP_NUM_THREADS=1 $(BIN)/wafersparse sweep configs/sweeps/demo.yaml --jobs 2 --resume
	$(BIN)/wafersparse compare runs/demo

study: .venv dense  ## the larger one, 60 runs, 3 seeds; again: goes on
	OMP_NUM_THREADS=1 $(BIN)/wafersparse sweep configs/sweeps/study.yaml --jobs 2 --resume
	$(BIN)/wafersparse compare runs/study

check: .venv lint types test  ## what CI runs: lint, types, tests
lint: .venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
types: .venv
	$(BIN)/mypy

bench: .venv  ## side-by-side benchmarks, written to docs/benchmarks.md; needs 26 GB of disk, about 20 minutes
	$(BIN)/python tests/benchmarks/bench.py $(ARGS)

clean:  ## remove what make made, but no masks
	rm -rf .venv .venv-cerebras checkpoints/demo.safetensors bench
