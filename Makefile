# Everything here sets itself up on a machine with nothing but Python 3.11 or later.
#
#   make test ARGS="-k redis -x"      options for pytest
#   make demo PYTHON=python3.13       another Python

ARGS ?=

VENV := .venv
BIN := $(VENV)/bin

# The stamp is named for the Python that made the environment: naming another makes it anew, naming none keeps it.
STAMP := $(VENV)/.ready-
ifdef PYTHON
READY := $(STAMP)$(subst /,+,$(PYTHON))
else
READY := $(firstword $(wildcard $(STAMP)*) $(STAMP)python3)
PYTHON := $(subst +,/,$(patsubst $(STAMP)%,%,$(READY)))
endif
IDENTITY := import sys; print(sys.base_prefix, sys.version)
# Tests wait for servers and timeouts more than they compute.
WORKERS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 2)
PARALLEL := -n $(WORKERS) --dist loadgroup

# What kills its processes before they could tell what they ran, takes the time, or tests the test servers.
UNMEASURED := integration/test_chaos integration/test_crash integration/test_large integration/test_processes \
	integration/test_servers acceptance/test_benchmarks acceptance/test_demo

.DEFAULT_GOAL := help
.PHONY: help demo test test-quick coverage lint bench bench-full soak clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(READY) ## Watch sessions go offline and come back, against real servers
	$(BIN)/localfirst demo --servers

test: $(READY) ## Run every test, against real servers
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

test-quick: $(READY) ## Run the tests that need no server
	$(BIN)/python -m pytest $(PARALLEL) tests/unit $(ARGS)

coverage: $(READY) ## Check that tests take 95 % of the branches of sync, the fold and the log (8 minutes)
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(PARALLEL) tests/unit tests/integration tests/acceptance \
		$(UNMEASURED:%=--ignore=tests/%.py) $(ARGS)
	$(BIN)/coverage run -m tests.simulation 0 --count 200
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

lint: $(READY) ## Check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY) ## Time every call beside peers and raw limits, and replication (6 minutes); writes benchmarks/results/
	$(BIN)/python -m benchmarks $(ARGS)

bench-full: $(READY) ## The same with 100,000 items in bulk, and a central store of a million sessions (15 minutes)
	$(BIN)/python -m benchmarks --full $(ARGS)

soak: $(READY) ## Crashes, chaos and forgeries far longer than in CI, then simulated universes until stopped
	LOCALFIRST_SOAK=1 $(BIN)/python -m pytest tests/integration/test_crash.py tests/integration/test_chaos.py \
		tests/integration/test_forged.py tests/unit/test_fuzz.py $(ARGS)
	$(BIN)/python -m tests.simulation --forever

clean: ## Remove the environment and everything generated
	rm -rf $(VENV) build dist htmlcov .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache \
		.hypothesis .import_linter_cache benchmarks/results
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Set up once per change of pyproject.toml or of PYTHON. An environment of the same Python stays, and is brought up to date.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or later is needed; name one with: make PYTHON=python3.12" >&2; exit 1; }
	@set -e; \
	if [ "$$($(BIN)/python -c '$(IDENTITY)' 2>/dev/null)" != "$$($(PYTHON) -c '$(IDENTITY)')" ]; then \
		if command -v uv >/dev/null; then \
			rm -rf $(VENV); \
			uv venv --quiet --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(VENV); \
		else \
			$(PYTHON) -m venv --clear $(VENV); \
		fi; \
	fi; \
	if command -v uv >/dev/null; then \
		uv pip install --quiet --python $(BIN)/python --editable '.[dev]'; \
	else \
		$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip; \
		$(BIN)/python -m pip install --quiet --editable '.[dev]'; \
	fi
	@rm -f $(VENV)/.ready* && touch $@
