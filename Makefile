PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BASE_STAMP := $(VENV)/.installed-base

.PHONY: help install demo test test-slow test-oldest mindspore-env test-mindspore test-wheel bench test-gpu bench-gpu check docs openapi format build clean

help:
	@echo "make demo       train, evaluate and use a detector on the built-in data"
	@echo "make test       run the tests in WORKERS=$(WORKERS) processes (test-slow: the long proofs)"
	@echo "make test-oldest  the tests with the oldest packages that are allowed"
	@echo "make test-mindspore  the tests that need MindSpore, in an environment of their own"
	@echo "make test-wheel the wheel in an environment of its own"
	@echo "make bench      how time and memory grow with the data: a table and build/bench/*.json"
	@echo "make test-gpu   the tests that need a CUDA GPU: a table and build/bench/test-gpu.json"
	@echo "make bench-gpu  training, inference and NMS on a GPU: a table and build/bench/gpu.json"
	@echo "make check      formatting, lint, types, import order and the site"
	@echo "make docs       the documentation as a site in build/site"
	@echo "make openapi    the description of the service in docs/openapi.json"
	@echo "make install    $(VENV) with the package and its dev extra"
	@echo "make format     format the code"
	@echo "make build      source distribution and wheel in dist/"

install: $(STAMP)

$(BASE_STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt torch
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e .
	touch $@

$(STAMP): $(BASE_STAMP)
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt --no-deps trackers
	touch $@

# The base install is enough: no exporters, no tools of development.
demo: $(BASE_STAMP)
	$(BIN)/oculox demo --output demo-run --overwrite

# Tests run in as many processes, for two cores; each computes with one thread, and some wait.
WORKERS ?= 3
PARALLEL := -n $(WORKERS) --dist worksteal --durations 10

# Tests start many processes: each would compile the package again.
unexport PYTHONDONTWRITEBYTECODE

test: install
	$(BIN)/python -m pytest -q $(PARALLEL)

test-slow: install
	$(BIN)/python -m pytest -q -m 'slow and not gpu and not mindspore'

OLDEST_VENV ?= .venv-oldest
OLDEST_STAMP := $(OLDEST_VENV)/.installed
OLDEST_TESTS ?= tests
# All packages at their oldest but torch, whose oldest version comes from PyPI with CUDA alone:
# set OLDEST_TORCH=torch==2.4.0 where that may be downloaded.
OLDEST_TORCH ?= torch==2.13.0

$(OLDEST_STAMP): pyproject.toml constraints-oldest.txt
	$(PYTHON) -m venv $(OLDEST_VENV)
	$(OLDEST_VENV)/bin/pip install --disable-pip-version-check -q $(OLDEST_TORCH)
	$(OLDEST_VENV)/bin/pip install --disable-pip-version-check -q -c constraints-oldest.txt -e '.[dev]'
	touch $@

# Old packages call what newer ones below them deprecate: such warnings are no errors here.
test-oldest: $(OLDEST_STAMP)
	$(OLDEST_VENV)/bin/python -m pytest -q $(PARALLEL) -W ignore::DeprecationWarning $(OLDEST_TESTS)

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

test-wheel: install
	$(BIN)/python -m pytest -q -m slow tests/test_wheel.py

bench: install
	$(BIN)/python benchmarks/scale.py --json build/bench/scale.json

# GPU_PYTHON=python3 takes what is installed there already, in PYTHONPATH too: for machines without a
# network. Warnings of other versions of packages are no errors, and files without such tests are
# not imported.
GPU_PYTHON ?= $(BIN)/python
FROM_SOURCE = PYTHONPATH=$(CURDIR)/src$${PYTHONPATH:+:$$PYTHONPATH}
ON_GPU = $(if $(filter $(BIN)/python,$(GPU_PYTHON)),install)

test-gpu: $(ON_GPU)
	$(FROM_SOURCE) $(GPU_PYTHON) -m pytest -q -m gpu -W default --durations 10 \
		--outcomes build/bench/test-gpu.json $$(grep -rl --include='test_*.py' 'mark\.gpu' tests | sort)

bench-gpu: $(ON_GPU)
	$(FROM_SOURCE) $(GPU_PYTHON) benchmarks/gpu.py --json build/bench/gpu.json

check: install docs
	$(BIN)/ruff format --check src tests benchmarks docs
	$(BIN)/ruff check src tests benchmarks docs
	$(BIN)/mypy
	$(BIN)/lint-imports

# The variable hides advertising of the theme.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

openapi: install
	$(BIN)/python -c 'import json; from oculox.serve.app import describe; print(json.dumps(describe(), indent=1))' > docs/openapi.json

format: install
	$(BIN)/ruff format src tests benchmarks docs
	$(BIN)/ruff check --fix src tests benchmarks docs

build: install
	$(BIN)/python -m build

clean:
	rm -rf build dist src/*.egg-info demo-run .mypy_cache .ruff_cache .pytest_cache
