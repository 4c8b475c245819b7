# Everything there is to do, for people, CI and Docker alike: make setup | lint | demo | test | bench | docs
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The environment is made anew when, and only when, its recipe changes.
STAMP := $(VENV)/.made-from-$(shell cksum pyproject.toml | tr ' ' '-')

.PHONY: setup lint demo test bench docs

setup: $(STAMP)

$(STAMP):
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $(STAMP)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

demo: setup
	$(BIN)/python scripts/demo.py

# one thread in each of a few processes: the signals of the tests are too short to share
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 4

bench: setup
	$(BIN)/python scripts/bench_separate.py
	$(BIN)/python scripts/bench_metrics.py
	$(BIN)/python scripts/bench_filters.py
	$(BIN)/python scripts/bench_classical.py
	$(BIN)/python scripts/bench_training.py

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo site/index.html
