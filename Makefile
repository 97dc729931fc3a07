# Every target makes its own virtual environment in .venv and writes nothing outside this folder.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LOWEST := .venv-lowest
RUN := runs/main
CONFIG := zoo_configs/quickstart.yml
export MPLCONFIGDIR := $(CURDIR)/.cache/matplotlib
export RUFF_CACHE_DIR := $(CURDIR)/.cache/ruff
export MYPY_CACHE_DIR := $(CURDIR)/.cache/mypy
# Where SB3 logs when it is told nothing; else a temporary folder.
export SB3_LOGDIR := $(CURDIR)/.cache/sb3
export TORCHINDUCTOR_CACHE_DIR := $(CURDIR)/.cache/torchinductor

.PHONY: help setup train test test-all test-lowest lint type format bench docs clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sb3-multitask needs Python 3.11 or newer; try: make PYTHON=python3.12 ...")'
	@echo "Installing into $(VENV) (a few minutes the first time) ..."
	@mkdir -p .cache/pip-tmp
	@$(PYTHON) -m venv $(VENV)
	@TMPDIR=$(CURDIR)/.cache/pip-tmp $(BIN)/pip install --quiet --no-cache-dir --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@rm -rf .cache/pip-tmp
	@touch $@

setup: $(VENV)/.installed  ## Make the virtual environment and install

train: setup  ## Main job: one agent learns six HalfCheetah bodies (one to two minutes on 2 cores)
	@$(BIN)/sb3-multitask train --config $(CONFIG) --run-dir $(RUN) --overwrite

test: setup  ## The tests (about five minutes on 2 cores)
	$(BIN)/pytest -n 2 -m "not slow"

test-all: test  ## The tests and the slow ones (learning, many processes); what CI runs
	$(BIN)/pytest -n 2 -m slow

# `make test-lowest TORCH=torch==2.13.0` keeps the PyTorch that pip installs. Without TORCH it is the lowest, like all others.
$(LOWEST)/.installed: pyproject.toml
	@echo "Installing the lowest version of every dependency into $(LOWEST) ..."
	@rm -rf $(LOWEST) .cache/pip-tmp
	@mkdir -p .cache/pip-tmp
	@$(PYTHON) -m venv $(LOWEST)
	@TMPDIR=$(CURDIR)/.cache/pip-tmp $(LOWEST)/bin/pip install --quiet --no-cache-dir --disable-pip-version-check --no-deps uv $(TORCH)
	@$(LOWEST)/bin/uv pip install --quiet --cache-dir .cache/uv --python $(LOWEST)/bin/python \
		--resolution lowest-direct --only-binary :all: --no-binary sb3-multitask -e ".[dev]" $(TORCH)
	@rm -rf .cache/pip-tmp
	@touch $@

test-lowest: $(LOWEST)/.installed  ## The tests with the lowest versions that pyproject.toml allows; before a release
	PYTEST_ADDOPTS="-W ignore::DeprecationWarning -W ignore::PendingDeprecationWarning" \
		$(LOWEST)/bin/pytest -n 2 -m "not slow"

lint: setup  ## Ruff: rules and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: setup  ## mypy, strict
	$(BIN)/mypy

format: setup  ## Ruff: fix and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup  ## Throughput beside the physics and beside SB3 (about ten minutes, on a quiet machine)
	$(BIN)/python benchmarks/throughput.py

docs: setup  ## This documentation as a site in docs/_build/html; warnings are errors
	$(BIN)/sphinx-build -b html -W --keep-going -n -d .cache/doctrees docs docs/_build/html

clean:  ## Remove the virtual environment, caches, runs and the site
	rm -rf $(VENV) $(LOWEST) .venv-peers .cache runs docs/_build
