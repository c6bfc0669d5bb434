# Everything a newcomer types. Needs Python >= 3.10, pip and make; no root, no broker, no accelerator.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types check bench virtual lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Create the virtual environment with locked dependencies

$(READY): requirements.lock pyproject.toml
	@echo "Setting up $(VENV) (once; a minute or two)"
	@$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || { \
	  $(PYTHON) -m venv --clear --without-pip $(VENV) && \
	  $(PYTHON) -m pip --quiet --python $(BIN)/python install pip; }
	@$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements.lock
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(READY) ## Convert the sample model, serve it, send it pictures, show live telemetry
	@$(BIN)/python examples/demo.py

# One process more than cores, as many tests wait for others' processes.
test: $(READY) ## Run the tests
	@$(BIN)/python -m pytest --quiet \
	  --numprocesses "$$($(BIN)/python -c 'import os; print(os.cpu_count() + 1)')"

lint: $(READY) ## Check style, format and who imports whom
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

types: $(READY) ## Check types
	@$(BIN)/mypy

check: lint types test ## All of the above: what CI runs

bench: $(READY) ## Run the benchmarks that need no other servers, and rewrite their tables
	@$(BIN)/python benchmarks/infer_overhead.py
	@$(BIN)/python benchmarks/conversion.py

virtual: $(READY) ## Boot, update and break a virtual device (root and QEMU; a quarter of an hour)
	@$(BIN)/python -m pytest --quiet -m slow tests/deploy/virtual
	@cp build/virtual_device.md benchmarks/results/

lock: ## Lock the newest dependencies, with hashes for every platform (needs uv)
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.10 --upgrade \
	  --generate-hashes --no-header --no-annotate --no-emit-index-url -o requirements.lock

clean: ## Remove the virtual environment, caches and build results
	@rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
