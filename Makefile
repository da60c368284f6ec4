# One folder, one environment. `make setup` is the first step of every other target.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-distributed check format lint types layers mutants audit-calibration clean

help:            ## list the targets
	@grep -E '^[a-z-]+: .*##|^[a-z-]+:  *##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $(STAMP)

setup: $(STAMP)  ## make the environment in .venv

demo: setup      ## fine-tune SmolLM2 over four silos with differential privacy
	$(BIN)/privet fetch smollm2
	$(BIN)/privet fetch sentiment
	$(BIN)/privet run examples/hedge.yaml --out runs/demo --fresh

test: setup      ## the whole test suite
	$(BIN)/python -m pytest -n 2 --dist loadgroup

test-distributed: setup  ## kills and refusals of a consortium over NVIDIA FLARE, with real processes and TLS
	$(BIN)/python -m pytest -m distributed -p no:cacheprovider tests/integration

audit-calibration: setup  ## how often the audit cries wolf over honest seeds
	$(BIN)/python -m experiments.audit_calibration.run

mutants: setup   ## plant bugs and see that tests catch them; writes docs/mutants.md
	$(BIN)/python -m mutants

format: setup    ## is the code formatted?
	$(BIN)/ruff format --check src tests benchmarks experiments mutants docs

lint: setup      ## ruff
	$(BIN)/ruff check src tests benchmarks experiments mutants docs

types: setup     ## mypy, strict
	$(BIN)/mypy

layers: setup    ## who may import whom
	$(BIN)/lint-imports

check: format lint types layers  ## all checks, then the tests
	$(MAKE) test

clean:           ## remove what runs and tests left behind
	rm -rf runs build dist .mypy_cache .ruff_cache .pytest_cache
