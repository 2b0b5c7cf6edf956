# make help lists the targets. demo and test need nothing but python3 (3.11 or newer) and its venv.

PYTHON ?= $(shell python3.11 -c '' 2>/dev/null && echo python3.11 || echo python3)
PYTEST_ARGS ?= -n 2 -q
BENCHMARKS ?= $(filter-out benchmarks/_%,$(sort $(wildcard benchmarks/*.py)))
PORT ?= 8000

BIN := .venv/bin
OUT := out

# Extras of pyproject.toml that each group of targets needs. All share one .venv.
EXTRAS_demo := demo
EXTRAS_test := cli,diffusers,diffusion,metrics,plot,test
EXTRAS_docs := cli,diffusers,diffusion,docs,plot
EXTRAS_bench := bench
EXTRAS_dev := dev

SPHINX := $(BIN)/python -m sphinx -q -W --keep-going -d docs/_build/doctrees

# pytest-xdist already uses the cores: one thread for each process.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1

.DEFAULT_GOAL := help
# Targets share .venv, and two pips at once would break it.
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo test test-thorough lint format docs docs-serve bench bench-history dev clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

demo: .venv/.installed-demo ## run the demo; results in out/demo
	$(BIN)/python examples/demo.py --out $(OUT)/demo

test: .venv/.installed-test ## run the tests
	$(ONE_THREAD) $(BIN)/python -m pytest -m "not slow" $(PYTEST_ARGS)

test-thorough: .venv/.installed-test ## run all tests, with many random examples each
	$(ONE_THREAD) STIFFKIT_HYPOTHESIS=thorough \
	  $(BIN)/python -m pytest -o timeout=3600 $(PYTEST_ARGS)

lint: .venv/.installed-dev ## check style, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: .venv/.installed-dev ## format, and mend what ruff can mend
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

# -E: pages that did not change must warn again.
docs: .venv/.installed-docs ## build the documentation and run its examples
	$(SPHINX) -E -n -b html docs docs/_build/html
	$(SPHINX) -b doctest docs docs/_build/doctest
	@echo "docs/_build/html/index.html"

docs-serve: docs ## serve the documentation on this machine, at PORT (8000)
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory docs/_build/html $(PORT)

bench: .venv/.installed-bench ## run the benchmarks, or those named in BENCHMARKS
	@set -e; for script in $(BENCHMARKS); do echo "== $$script"; $(BIN)/python "$$script"; done

# Without an earlier run there is nothing to compare with, of which the plugin would warn.
bench-history: .venv/.installed-bench ## time what the loop costs, and compare with the last time
	$(ONE_THREAD) $(BIN)/python -m pytest benchmarks/history -q \
	  -W ignore::pytest_benchmark.logger.PytestBenchmarkWarning \
	  --benchmark-storage=file://$(OUT)/history --benchmark-autosave --benchmark-compare \
	  --benchmark-timer=time.process_time --benchmark-columns=min,median,rounds

dev: .venv/.installed-dev ## install everything for development, with the commit hooks
	$(BIN)/pre-commit install

clean: ## remove all that make made, .venv too
	rm -rf .venv $(OUT) build dist docs/_build docs/gallery docs/method .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	$(PYTHON) -m venv .venv

# The constraints also keep torch at its pinned version, whatever else is installed.
.venv/.installed-%: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  -c constraints.txt -e '.[$(EXTRAS_$*)]'
	@touch $@
