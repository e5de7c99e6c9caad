PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: repro test setup check clean

repro: setup
	$(if $(SUITE),fidec suite $(SUITE))
	fidec check
	fidec unlock
	dvc --wait-for-lock repro

test: setup
	pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder

setup: $(BIN)/.ready

# The lock is a constraint, not a list to install: torch brings what the machine's kind of build needs.
$(BIN)/.ready: pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable '.[dev]'
	touch $@

check: setup
	ruff format --check .
	ruff check .
	mypy

clean:
	rm -rf .scratch
