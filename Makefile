PYTHON ?= python3
BIN := .venv/bin
# Scripts of a virtual environment name the folder in which it was made; `python -m` also works after a move.
RUN := $(BIN)/python -m

export OUTSIDE := $(PATH)
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: repro test setup check clean

repro: setup
	$(if $(SUITE),$(RUN) fd.cli suite $(SUITE))
	$(RUN) fd.cli check
	$(RUN) fd.cli unlock
	$(RUN) dvc --wait-for-lock repro

test: setup
	$(RUN) pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder

# An environment is whole if its Python runs, is 3.11 or 3.12, has pip and, if you name PYTHON, is that one. Else it is made anew.
UNFIT := f"{sys.executable} is Python {sys.version.split()[0]}, needed: 3.11 or 3.12"
FIT := -c 'import sys; sys.exit(sys.version_info[:2] not in [(3, 11), (3, 12)] and $(UNFIT))'
IDENTITY := -c 'import sys; print(sys.base_prefix, sys.version)'
GIVEN := $(filter-out file,$(origin PYTHON))

setup:
	@{ $(BIN)/python $(FIT) && $(RUN) pip --version; } > /dev/null 2>&1 \
		$(if $(GIVEN),&& test "$$($(BIN)/python $(IDENTITY))" = "$$(PATH="$$OUTSIDE" $(PYTHON) $(IDENTITY))") \
		|| { test ! -e .venv || echo "make: .venv is incomplete or of another Python: it is made anew" >&2; \
			PATH="$$OUTSIDE" $(PYTHON) $(FIT) && PATH="$$OUTSIDE" $(PYTHON) -m venv .venv --clear; }
	@$(RUN) pip check > /dev/null 2>&1 || rm -f $(BIN)/.ready
	@$(MAKE) --no-print-directory $(BIN)/.ready
	@head -n 2 $(BIN)/pip | grep --quiet --fixed-strings "$$(pwd -P)/$(BIN)/" \
		|| echo "make: .venv was made in another folder: make works, activate and scripts do not;" \
			"to mend them: rm -rf .venv && make setup" >&2

# The lock is a constraint, not a list to install: torch brings what the machine's kind of build needs.
$(BIN)/.ready: pyproject.toml requirements.lock
	@rm -f $@
	@echo "make: installs the packages into .venv, about two minutes" >&2
	$(RUN) pip install --quiet --constraint requirements.lock --editable '.[dev]'
	touch $@

check: setup
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy

clean:
	test ! -d .scratch || find .scratch/ -mindepth 1 -delete
