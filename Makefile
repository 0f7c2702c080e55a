# `make demo` and `make test` set everything up first: Python 3.11 or 3.12, make and pip are all they need.
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
VENV := .venv
BIN := $(VENV)/bin
# Tests side by side: one more than cores, for many wait for processes of their own.
TESTERS = $(shell $(PYTHON) -c 'import os; print(min(os.cpu_count() or 1, 8) + 1)')
# Tests start hundreds of Pythons: where bytecode is not written, each would compile this tree again.
export PYTHONDONTWRITEBYTECODE =

.PHONY: demo test test-long test-encoders test-server test-processors docs clean

demo: $(VENV)/ready
	PYTHON=$(BIN)/python bash pipelines/demo.sh

# While mypy reads, another core compiles the loops that the tests need.
test: $(VENV)/ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m tests.compile_loops & $(BIN)/mypy; types=$$?; wait; exit $$types
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not architectures and not long and not server" --numprocesses $(TESTERS) --dist worksteal

# What starts many processes, and kills some of them.
test-long: $(VENV)/ready-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long --numprocesses $(TESTERS) --dist worksteal

# Every architecture of open_clip, through the checks of extraction.
test-encoders: $(VENV)/ready-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m architectures --numprocesses $(TESTERS) --dist worksteal

# A Milvus server, started, killed and stopped.
test-server: $(VENV)/ready-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m server

# Results that must not have other bits, as other processors would compute them.
test-processors: $(VENV)/ready-dev
	$(BIN)/python -m tests.processors

# The pages that are written by programs, and the outputs of the tutorial.
docs: $(VENV)/ready-dev
	$(BIN)/python -m docs.scripts.commands
	$(BIN)/python -m docs.scripts.layout
	$(BIN)/python -m docs.scripts.recipes
	$(BIN)/python -m docs.scripts.stages
	$(BIN)/python -m docs.scripts.tutorial

$(VENV)/ready: requirements.txt $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.txt $(CONSTRAINTS:%=--constraint %)
	touch $@

$(VENV)/ready-dev: $(VENV)/ready $(wildcard requirements-*.txt)
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.txt $(CONSTRAINTS:%=--constraint %)
	touch $@

clean:
	rm -rf runs .mypy_cache .pytest_cache .ruff_cache .hypothesis
