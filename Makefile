# Everything sets itself up: 'make demo' and 'make test' work in a fresh clone with Python 3.11 or newer.

PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(if $(shell command -v $(name)),$(name))))
ifeq ($(PYTHON),)
$(error found no python3, expected Python 3.11 or newer; install it or run make PYTHON=/path/to/python)
endif
PIP_INSTALL = $(1)/bin/python -m pip install -qq --no-compile --disable-pip-version-check --constraint constraints.txt
SOURCES = pyproject.toml constraints.txt

# The demo needs neither torch nor the tools; tests and benchmarks need everything.
BASE = .venv-demo
FULL = .venv

.DEFAULT_GOAL := help
.PHONY: help demo test test-gpu gpu-session test-x86-emulated bench lint system board pc pc-amx clean

help: ## show this list
	@grep -E '^[a-z0-9-]+:.*##' Makefile | sed -E 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/' | expand -t 26

demo: $(BASE)/.ready ## build, verify and time the shipped model on real images
	@$(BASE)/bin/lqcompile demo

test: $(FULL)/.ready system board pc lint ## lint, types and all tests
	OMP_NUM_THREADS=1 $(FULL)/bin/python -m pytest -n 2 --dist worksteal -q

test-gpu: $(FULL)/.ready ## the kernels for NVIDIA GPUs, on the GPU of this machine (docs/cuda.md)
	LQCOMPILE_TEST_GPU=1 $(FULL)/bin/python -m pytest -q tests/on_gpu

gpu-session: $(FULL)/.ready ## tests and all measurements on the GPU of this machine, in one folder (docs/cuda.md)
	@PYTHON=$(FULL)/bin/python bash benchmarks/gpu_session.sh

test-x86-emulated: $(FULL)/.ready pc ## all kernels for x86 processors that this one is not, on an emulated PC (docs/x86.md)
	LQCOMPILE_TEST_PC=1 $(FULL)/bin/python -m pytest -n 2 --dist worksteal -q -k "emulated or x86 or bit_planes_equal" \
	  tests/test_emulated_pc.py tests/test_emulated_networks.py tests/schedules/test_operators.py \
	  tests/schedules/test_winograd.py tests/schedules/test_lut_pairs.py tests/schedules/test_cells.py \
	  tests/schedules/test_amx.py

bench: $(FULL)/.ready system ## speed claims of the README; LQCOMPILE_BENCH_LONG=1 adds what takes hours
	@bash scripts/bench.sh $(FULL)/bin/python

lint: $(FULL)/.ready ## ruff and mypy
	$(FULL)/bin/ruff check .
	$(FULL)/bin/ruff format --check .
	$(FULL)/bin/mypy

system: ## install system packages that tests use, where that is possible
	@bash scripts/install-system.sh

board: $(FULL)/.ready system ## make the emulated aarch64 board that tests use, where that is possible
	@bash scripts/emulated-board.sh $(FULL)/bin/python || echo "The tests that need the emulated board skip."

pc: ## make the emulated PC that tests use, where that is possible
	@bash scripts/emulated-pc.sh || echo "The tests that need the emulated PC skip."

pc-amx: pc ## make an emulated PC for AMX from source; test-x86-emulated tests AMX too then (docs/x86.md)
	@bash scripts/emulated-pc-amx.sh || echo "The tests of AMX on the emulated PC skip."

clean: ## remove the environments and caches
	rm -rf $(BASE) $(FULL) .board .pc build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(BASE)/.ready: $(SOURCES)
	@echo "Setting up $(BASE) (a minute or two, once) ..."
	@$(PYTHON) -m venv $(BASE)
	@$(call PIP_INSTALL,$(BASE)) --editable .
	@touch $@

$(FULL)/.ready: $(SOURCES)
	@echo "Setting up $(FULL) (a few minutes, once) ..."
	@$(PYTHON) -m venv $(FULL)
	@$(call PIP_INSTALL,$(FULL)) --editable '.[train,tune,bench,report,cuda,dev]'
	@touch $@
