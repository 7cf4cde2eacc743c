# Everything here sets itself up on a machine with nothing but Python 3.11 or later.
#
#   make test ARGS="-k replay -x"     options for pytest
#   make demo PYTHON=python3.13       another Python

PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PARALLEL := -n auto --dist loadgroup

.DEFAULT_GOAL := help
.PHONY: help demo test test-quick lint bench clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(READY) ## Watch sessions go offline and come back, against real servers
	$(BIN)/localfirst demo --servers

test: $(READY) ## Run every test, against real servers
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

test-quick: $(READY) ## Run the tests that need no server
	$(BIN)/python -m pytest $(PARALLEL) tests/unit $(ARGS)

lint: $(READY) ## Check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY) ## Measure
	$(BIN)/python -m benchmarks $(ARGS)

clean: ## Remove the environment and everything generated
	rm -rf $(VENV) build dist htmlcov .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache \
		.hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Set up once per change of pyproject.toml.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or later is needed; name one with: make PYTHON=python3.12" >&2; exit 1; }
	@set -e; if command -v uv >/dev/null; then \
		test -x $(BIN)/python || uv venv --quiet --python $(PYTHON) $(VENV); \
		uv pip install --quiet --python $(BIN)/python --editable '.[dev]'; \
	else \
		test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); \
		$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip; \
		$(BIN)/python -m pip install --quiet --editable '.[dev]'; \
	fi
	@touch $@
