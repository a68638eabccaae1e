# `make` lists the targets. Everything runs in .venv, which is made and kept up to date on demand.
# Another interpreter (3.11 or later): make PYTHON=/usr/bin/python3.12 test

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Two processes, since many tests wait for others to start, stop or die; tests/conftest.py says what goes where.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test check format-check lint types layers test-all bench format clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.stamp-run  ## train on real handwritten digits on two local Ray workers
	$(BIN)/gradfleet demo

test: $(VENV)/.stamp-dev  ## the tests, without the slow ones
	$(PYTEST) -m "not slow"

check: format-check lint types layers test  ## what continuous integration runs

format-check: $(VENV)/.stamp-dev
	$(BIN)/ruff format --check

lint: $(VENV)/.stamp-dev  ## style: ruff
	$(BIN)/ruff check

types: $(VENV)/.stamp-dev  ## types: mypy, strict
	$(BIN)/mypy

layers: $(VENV)/.stamp-dev  ## who imports whom: import-linter
	$(BIN)/lint-imports --no-logo

test-all: $(VENV)/.stamp-dev  ## every test, the slow ones too, with new random examples each time
	$(PYTEST) --hypothesis-profile=exploring

# The two variables change which kernels OpenBLAS picks, and with them the figures.
bench: $(VENV)/.stamp-dev  ## measure; prints tables and writes docs/performance.md
	env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE $(BIN)/python -m benchmarks --write

format: $(VENV)/.stamp-dev  ## rewrite the sources in the project's style
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

clean:  ## remove .venv, caches and builds
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'Python 3.11 or later is needed; name one with: make PYTHON=/path/to/python3 ...' >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo 'No venv: on Debian, apt-get install python3-venv' >&2; exit 1; }

$(VENV)/.stamp-run: pyproject.toml | $(VENV)/pyvenv.cfg
	$(PIP) install --quiet --editable '.[cluster]'
	@touch $@

# Holds all that .stamp-run does, so that `make demo` after `make test` installs nothing.
$(VENV)/.stamp-dev: pyproject.toml | $(VENV)/pyvenv.cfg
	$(PIP) install --quiet --editable '.[cluster,dev]'
	@touch $(VENV)/.stamp-run $@
