# Two commands: `make run` and `make test`. Every target makes .venv from the lock and builds the native cores first.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

ROOT := $(patsubst %/,%,$(dir $(abspath $(lastword $(MAKEFILE_LIST)))))
PYTHON ?= python3
SYSTEM ?= all
PROFILE ?= laptop
CONFIG ?=
NATIVE ?=
JOBS ?= 3

BIN := $(ROOT)/.venv/bin
NATIVE_SOURCES := $(shell find $(ROOT)/operators -path '*/native/*' -type f)
SYSTEMS := $(notdir $(patsubst %/Snakefile,%,$(wildcard $(ROOT)/workflows/*/Snakefile)))
SNAKEMAKE = cd $(ROOT) && snakemake --profile profiles/$(PROFILE)
PEERS_PIP = $(ROOT)/.venv-peers/bin/pip install --quiet --disable-pip-version-check
WITH_CONFIG = $(if $(CONFIG),--config $(CONFIG))

CLAIMS = $(patsubst %,results/%/claims.parquet,$(if $(filter all,$(SYSTEM)),$(SYSTEMS),$(SYSTEM)))

export PATH := $(BIN):$(PATH)
# Compiled bytecode halves every start of Snakemake and Ray; an empty value switches the variable off.
export PYTHONDONTWRITEBYTECODE :=
unexport PYTHONPATH

.PHONY: help run test test-slow lint format report bench perf data readme native peers lock clean check

help: ## this page
	@grep -hE '^[a-z-]+:.*## ' $(ROOT)/Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 12
	@echo
	@echo "variables   SYSTEM (all $(SYSTEMS)), PROFILE (ci laptop full paper), CONFIG (\"data=DIR 'metro={seed: 1}'\")"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "$(PYTHON) is missing or older than Python 3.11; give one with PYTHON=..." >&2; exit 2; }
	$(PYTHON) -m venv $(ROOT)/.venv

# uv installs the lock in a third of pip's time; pip does it where uv cannot reach the package index.
$(ROOT)/.venv/.locked: $(ROOT)/requirements.lock $(ROOT)/bootstrap.lock | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r $(ROOT)/bootstrap.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --require-hashes -r $(ROOT)/requirements.lock || \
	  $(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r $(ROOT)/requirements.lock
	@touch $@

$(ROOT)/.venv/.built: $(ROOT)/.venv/.locked $(ROOT)/pyproject.toml $(ROOT)/CMakeLists.txt $(NATIVE_SOURCES)
	@command -v $${CXX:-c++} >/dev/null || echo "no C++ compiler: native cores are left out, numba stands in (slower)"
	cd $(ROOT) && $(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation $(NATIVE) -e .
	@touch $@

native: ## build the native cores again; NATIVE='-C cmake.build-type=Debug' or '-C cmake.define.PG_SANITIZE=ON'
	@rm -f $(ROOT)/.venv/.built
	@$(MAKE) --no-print-directory -f $(ROOT)/Makefile $(ROOT)/.venv/.built

check: $(ROOT)/.venv/.built
	@cd $(ROOT) && python -m operators.lab.overview --check $(SYSTEM) $(PROFILE)

run: check ## run SYSTEM (default all) at PROFILE (default laptop), print the claims table, write results/report.html
	@$(SNAKEMAKE) $(SYSTEM) $(WITH_CONFIG)
	@$(SNAKEMAKE) $(SYSTEM) --report results/report.html --quiet all $(WITH_CONFIG)
	@cd $(ROOT) && python -m operators.lab.claims $(CLAIMS)
	@echo "report: $(ROOT)/results/report.html"

report: check ## results/report.html of all systems
	@$(SNAKEMAKE) report $(WITH_CONFIG)
	@echo "report: $(ROOT)/results/report.html"

bench: check ## every system beside its peers
	@$(SNAKEMAKE) bench $(WITH_CONFIG)

lint: $(ROOT)/.venv/.built ## ruff, snakefmt, snakemake --lint
	cd $(ROOT) && ruff check . && ruff format --check .
	cd $(ROOT) && snakefmt --check Snakefile workflows tests/workflow/toy/workflows
	cd $(ROOT) && snakemake --lint --config profile=ci

format: $(ROOT)/.venv/.built ## put the code into the house's form
	cd $(ROOT) && ruff check --fix . ; ruff format . ; snakefmt Snakefile workflows tests/workflow/toy/workflows

test: lint ## lint, then every default test, JOBS (3) files at a time
	cd $(ROOT) && python -m pytest -n $(JOBS) --dist loadfile

test-slow: $(ROOT)/.venv/.built ## the heavier tests
	cd $(ROOT) && python -m pytest -m slow

perf: $(ROOT)/.venv/.built ## print the performance bars beside their peers; decides nothing
	cd $(ROOT) && python -m pytest -m perf -s

data: $(ROOT)/.venv/.built ## fetch what is missing of the data sets into ./data (workflows/datasets.yaml)
	@cd $(ROOT) && python -m operators.lab.fetch --out data

readme: check ## write the table of verdicts into README.md from results/
	@cd $(ROOT) && python -m operators.lab.readme

# One environment a set of peers that can live together: requirements-peers.lock makes .venv-peers,
# requirements-peers-x.lock makes .venv-peers-x. Two more of metro's have packages that pip must not resolve.
peers: $(BIN)/python ## install the peers' own environments (.venv-peers*)
	@set -e; for lock in $(ROOT)/requirements-peers*.lock; do \
	  name=$$(basename $$lock .lock); place=$(ROOT)/.venv-$${name#requirements-}; \
	  echo "$$place"; $(PYTHON) -m venv $$place; \
	  $$place/bin/pip install --quiet --disable-pip-version-check -r $$lock; done
	$(PEERS_PIP) --no-deps sglang==0.5.23
	$(PEERS_PIP) --no-deps --target $(ROOT)/.venv-peers/eplb-original sglang==0.5.2

lock: $(BIN)/python ## pin the dependencies again after a change of pyproject.toml
	cd $(ROOT) && $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 \
	  --extra dev pyproject.toml -o requirements.lock

clean: ## remove results/ (keeps .venv and data)
	find $(ROOT)/results -mindepth 1 ! -name README.md ! -name overview.svg -delete
