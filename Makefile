PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help install demo test test-slow mindspore-env test-mindspore check format build clean

help:
	@echo "make demo       train, evaluate and use a detector on the built-in data"
	@echo "make test       run the tests (test-slow: the long proofs)"
	@echo "make test-mindspore  the tests that need MindSpore, in an environment of their own"
	@echo "make check      formatting, lint, types and import order"
	@echo "make install    $(VENV) with the package and its dev extra"
	@echo "make format     format the code"
	@echo "make build      source distribution and wheel in dist/"

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt torch
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	touch $@

demo: install
	$(BIN)/oculox demo --output demo-run --overwrite

test: install
	$(BIN)/python -m pytest -q

test-slow: install
	$(BIN)/python -m pytest -q -m slow

MINDSPORE_VENV ?= .venv-mindspore
MINDSPORE_STAMP := $(MINDSPORE_VENV)/.installed

mindspore-env: $(MINDSPORE_STAMP)

$(MINDSPORE_STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(MINDSPORE_VENV)
	$(MINDSPORE_VENV)/bin/pip install --disable-pip-version-check -q -c constraints.txt torch
	$(MINDSPORE_VENV)/bin/pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev,mindspore]'
	touch $@

test-mindspore: mindspore-env
	$(MINDSPORE_VENV)/bin/python -m pytest -q -m 'mindspore and not slow'

check: install
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff format src tests benchmarks
	$(BIN)/ruff check --fix src tests benchmarks

build: install
	$(BIN)/pip install -q build
	$(BIN)/python -m build

clean:
	rm -rf build dist src/*.egg-info demo-run .mypy_cache .ruff_cache .pytest_cache
