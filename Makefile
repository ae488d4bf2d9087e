# Each target does all the set-up that it needs: Python 3.11 or newer and a package index are enough.
.DEFAULT_GOAL := help
.PHONY: help demo test quick verify lint format clean
.DELETE_ON_ERROR:

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# Named by itself and installed first, so that nothing below moves it.
TORCH := torch==2.13.0

help: ## Show the targets.
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-8s %s\n", $$1, $$2}'

demo: $(VENV)/.runtime ## Convert all-MiniLM-L6-v2, check it, serve it, ask it over HTTP and Flight, stop it.
	$(BIN)/python demo/demo.py

# A worker imports torch, which takes about 1 GB. A file's tests run in one worker and share its fixtures.
WORKERS := --numprocesses logical --maxprocesses 4 --dist loadfile

test: $(VENV)/.development ## Run the tests, with coverage.
	$(BIN)/pytest $(WORKERS) --cov --cov-report=term:skip-covered

quick: $(VENV)/.development ## Run ruff and the tests that need neither torch, real weights nor processes.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pytest $(WORKERS) -m "not heavy and not slow and not gpu"

verify: $(VENV)/.development ## Compare the converted all-MiniLM-L6-v2 with HuggingFace in float32, on torch.
	$(BIN)/fletcher-convert model export all-MiniLM-L6-v2 -o .demo/all-MiniLM-L6-v2
	$(BIN)/fletcher-convert model verify .demo/all-MiniLM-L6-v2 --report .demo/verify.html --report .demo/verify.json

lint: $(VENV)/.development ## Check style, types and layers.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.development ## Put the code into its format.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## Remove what the other targets made.
	rm -rf $(VENV) .demo .coverage .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'Fletcher needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3.11' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# What a server needs, and the client that the demo asks it with: no torch.
$(VENV)/.runtime: pyproject.toml | $(BIN)/python
	$(PIP) install -e '.[cpu,serve]' 'openai>=1.60'
	@touch $@

$(VENV)/.development: pyproject.toml | $(BIN)/python
	$(PIP) install '$(TORCH)'
	$(PIP) install -e '.[cpu,serve,verify,dev]'
	@touch $@
