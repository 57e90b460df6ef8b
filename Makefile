# `make demo` sets up and generates; `make test` sets up and runs the tests. All lands in .venv, outputs/ and .cache/.
export JAX_COMPILATION_CACHE_DIR := $(CURDIR)/.cache/xla
PYTHON ?= python3
BIN := .venv/bin
PARALLEL := --numprocesses auto --maxprocesses 4 --dist loadfile

.PHONY: demo test test-slow lint clean

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[video,dev]"
	touch $@

demo: .venv/installed
	PATH="$(CURDIR)/$(BIN):$$PATH" bash examples/demo.sh

test: .venv/installed
	$(BIN)/python -m pytest -m "not slow" $(PARALLEL)

test-slow: .venv/installed
	$(BIN)/python -m pytest -m slow $(PARALLEL)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf .venv .cache outputs
