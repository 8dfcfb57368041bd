# Everything is written inside this folder (pip's own cache aside). A second call is quick: a stamp stands for the
# installed packages and is as old as pyproject.toml.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq
TORCH := torch==2.13.0

export OMP_NUM_THREADS := 1
export MLFLOW_DISABLE_TELEMETRY := true

.PHONY: help demo test test-all check bench clean

help:
	@echo "make demo      train a small network that goes bad, and see the story that nanwatch tells of it"
	@echo "make test      the tests, without the slow ones"
	@echo "make test-all  all tests"
	@echo "make check     ruff, mypy, import-linter"
	@echo "make bench     what a step costs; minutes, writes docs/overhead.md"
	@echo "make clean     remove what the other targets made"

demo: $(VENV)/.installed
	@$(BIN)/nanwatch demo

test: $(VENV)/.installed-dev
	@echo "== tests (the slow ones are left to make test-all)"
	@$(BIN)/python -m pytest -n 2 -m "not slow"

test-all: $(VENV)/.installed-dev
	@echo "== all tests"
	@$(BIN)/python -m pytest -n 2

check: $(VENV)/.installed-dev
	@echo "== ruff"
	@$(BIN)/ruff check nanwatch tests
	@$(BIN)/ruff format --check nanwatch tests
	@echo "== mypy"
	@$(BIN)/mypy
	@echo "== import-linter"
	@PYTHONPATH=. $(BIN)/lint-imports

bench: $(VENV)/.installed-dev
	@$(BIN)/python tests/bench/step_time.py --write docs/overhead.md

clean:
	rm -rf $(VENV) nanwatch-demo nanwatch_runs build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .grimp_cache
	find nanwatch tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@echo "== creating $(VENV) with $(PYTHON)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo "nanwatch needs Python 3.11, $(PYTHON) is another one: make PYTHON=/path/to/python3.11 ..."; exit 3; }
	@$(PYTHON) -m venv $(VENV)

# torch goes first and pinned, so that the resolver cannot trade it for another build while it places the rest.
$(VENV)/.torch: $(VENV)/bin/python
	@$(BIN)/python -c 'import torch' 2>/dev/null || { echo "== installing $(TORCH) (the first time takes minutes)"; $(PIP) "$(TORCH)"; }
	@touch $@

$(VENV)/.installed: pyproject.toml $(VENV)/.torch
	@echo "== installing nanwatch and what it needs"
	@$(PIP) -e . "$(TORCH)"
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/.torch
	@echo "== installing nanwatch and what its tests need"
	@$(PIP) -e ".[dev]" "$(TORCH)"
	@touch $@ $(VENV)/.installed
