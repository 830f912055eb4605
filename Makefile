# Every target below sets up what it needs: Python 3.10 or later, a network and nothing else.
#
#   make test        unit tests, doctests and architecture tests
#   make demo        the digits example: train, quantize, export, run in two runtimes
#   make notebooks   run the notebooks and store their outputs
#   make check       what CI checks: linter, type checker, tests
#   make test-long   the tests too slow for `make test`
#   make clean       removes the environment and everything built
#
# Variables: PYTHON (interpreter that creates the environment), VENV (where it is created),
# TORCH_SPEC (torch to install), TORCH_INDEX (package index that holds the CPU build of torch, for
# platforms whose default build is larger), WORKERS (test processes), PYTEST_ARGS.

PYTHON ?= python3
VENV ?= .venv
TORCH_SPEC ?= torch==2.13.0
TORCH_INDEX ?=
WORKERS ?= 2
PYTEST_ARGS ?=

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# One thread a process: the processes already fill the cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.DELETE_ON_ERROR:
.PHONY: check clean demo install lint notebooks test test-long

test: $(INSTALLED)
	$(PYTEST) -n $(WORKERS) $(PYTEST_ARGS)

test-long: $(INSTALLED)
	$(PYTEST) -m long $(PYTEST_ARGS) || test $$? -eq 5 # 5: there is none

demo: $(INSTALLED)
	$(BIN)/python examples/digits.py

notebooks: $(INSTALLED)
	$(BIN)/python notebooks/refresh.py

check: lint test

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python

install: $(INSTALLED)

# The installed torch becomes a constraint, so that no extra can replace it by another build.
$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(0 if sys.version_info >= (3, 10) else f"Python {v}: expected 3.10 or later. Pass another one: make PYTHON=python3.12")'
	@echo "Setting up $(VENV) (a few minutes the first time)"
	$(PYTHON) -m venv $(VENV)
	$(PIP) install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$(TORCH_SPEC)"
	$(BIN)/python -c 'from importlib.metadata import version; print("torch==" + version("torch"))' > $(VENV)/constraints.txt
	$(PIP) install --constraint $(VENV)/constraints.txt --editable ".[dev,test]"
	@touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis src/*.egg-info
	find src tests examples -name __pycache__ -type d -prune -exec rm -rf {} +
