# `make demo` and `make test` set a fresh machine up by themselves.
VERSIONS := 3.11 3.12 3.13
PYTHON ?= $(shell tools/find_python.sh $(VERSIONS) || command -v python3)
PIP_ARGS ?=
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := runs/demo
# Each process begins with its own half of the test files, so that most tests share their fixtures.
PYTEST = $(BIN)/pytest -n logical --dist worksteal
TESTS := not slow and not faults
SOURCES := seer_edge runtime tools tests
# The tests start many processes, each of which would compile all sources again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo test check fast test-pythons test-slow test-faults test-arm64 reliability lint format types unit bench docs clean

help:  ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-12s %s\n", $$1, $$2}'

setup: $(READY)  ## make .venv (or VENV) and install everything, system libraries included where possible


$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python 3.11 or newer is needed; name it with make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(PIP_ARGS) -c constraints.txt -e '.[all]'
	$(BIN)/pip install --quiet $(PIP_ARGS) -c constraints.txt --no-deps dm_control  # [all] lacks it on Python 3.13
	@tools/system_libs.sh
	@touch $@
	@echo "installed into $(VENV); to run seer-edge: . $(BIN)/activate"

demo: setup  ## the main job in about five minutes: real Alien, 0.07GB, a freeze, an evaluation, a report
	rm -rf $(DEMO) $(DEMO)-figures
	$(BIN)/seer-edge train --env Alien --mem-budget 0.07GB --total-timesteps 17000 --freeze-at 10500 \
	  --eval-every 17000 --eval-episodes 5 --run-dir $(DEMO)
	$(BIN)/seer-edge report $(DEMO) -o $(DEMO)/report.html --figures $(DEMO)-figures

test: setup  ## everything CI runs
	@$(MAKE) --no-print-directory -j lint types unit

check: setup  ## before each commit: format, lint, types, fast tests
	@$(MAKE) --no-print-directory -j lint types fast

fast: setup
	$(PYTEST) -m '$(TESTS) and not integration' tests/runtime tests/seer_edge

test-pythons: $(VERSIONS:%=test-python-%)  ## the fast tests on each further Python version that is installed here

# Each version has a virtual environment of its own, such as .venv-3.13. The version of .venv is left to `make test`.
test-python-%: setup
	@if $(BIN)/python -V | grep -q 'Python $*\.'; then \
	  echo "Python $*: tested by make test"; \
	elif python=$$(tools/find_python.sh $*); then \
	  echo "Python $*: testing with $$python"; \
	  $(MAKE) --no-print-directory fast VENV=.venv-$* PYTHON=$$python; \
	else \
	  echo "Python $*: not tested, no interpreter found"; \
	fi

test-slow: setup  ## the tests that take minutes
	$(BIN)/pytest -m slow

test-faults: setup  ## every injected fault: 200 kills, each step of each save, each bit of a manifest; above an hour
	$(BIN)/pytest -m 'not slow' tests/faults $(FAULTS_ARGS)

reliability: FAULTS_ARGS := --reliability docs/reliability.md
reliability: test-faults  ## the same, and write the table of docs/reliability.md

unit: setup
	$(PYTEST) -m '$(TESTS)'

test-arm64: setup  ## the wheel on an emulated Raspberry Pi 4, some ten minutes; 77 where this host cannot
	$(BIN)/python tools/arm64.py

lint: setup  ## lint and format check
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)

types: setup  ## mypy --strict
	$(BIN)/mypy

format: setup  ## format the sources
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

bench: setup  ## bytes, sampling time and conversion of each store, then RSS by cause and by budget
	$(BIN)/python tools/membench.py --out docs/results/membench
	$(BIN)/python tools/rssbench.py causes
	$(BIN)/python tools/rssbench.py slope

docs: setup  ## the documentation as a website in build/site, with strict link checks
	$(BIN)/pip install --quiet $(PIP_ARGS) -c constraints.txt -e '.[docs]'
	$(BIN)/mkdocs build --strict

clean:  ## remove virtual environments and caches
	rm -rf .venv .venv-* .mypy_cache .ruff_cache .pytest_cache .hypothesis
