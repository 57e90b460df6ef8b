# `make demo` sets up and generates, `make serve` serves the small model, `make live` plays it as it is made, `make train` trains, `make finetune` trains an adapter on a few clips,
# `make align` goes on with GRPO, `make curate` makes a training set of films (VIDEOS=FOLDER: of your own) and trains on it,
# `make test` runs the tests.
# `make chain` runs every command on what the ones before it wrote, from raw films to an aligned and judged model (SIZE=small: half
# an hour; SIZE=full: a night).
# All lands in .venv, outputs/ and .cache/.
# `make test-newest` runs the tests that touch JAX on Python 3.12 with the newest JAX, in an environment of its own.
# `make docs` builds the documentation as a site and fails on a broken link: outputs/site/index.html.
# `make gpu` measures what only a GPU can show, in nine minutes on an H100 or H200; PYTHON is one that has JAX for CUDA.
# `make test-compile` compiles the kernels for GPUs that are not here, in an environment of its own (2.5 GB).
export JAX_COMPILATION_CACHE_DIR := $(CURDIR)/.cache/xla
PYTHON ?= python3
# A Python 3.12 on the path that runs (pyenv puts commands there that may not), or one of pyenv's.
PYTHON312 ?= $(shell for python in python3.12 $(HOME)/.pyenv/versions/3.12*/bin/python; do \
	$$python -c "" 2>/dev/null && { echo $$python; break; }; done)
BIN := .venv/bin
# What is imported compiles when it is: compiling everything is half of an installation.
PIP_FLAGS := --quiet --no-compile
PARALLEL := --numprocesses auto --maxprocesses 4 --dist loadfile --durations 25

.PHONY: demo serve live train finetune align curate chain test test-slow test-newest test-compile gpu lint docs clean

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install $(PIP_FLAGS) --constraint constraints.txt --editable ".[train,evaluate,curate,serve,dev]"
	touch $@

# What only tests need of the larger extras; the first picture does not wait for it.
.venv/tests-installed: .venv/installed
	$(BIN)/pip install $(PIP_FLAGS) --constraint constraints.txt --editable ".[ocr,ray,cluster]"
	touch $@

demo: .venv/installed
	PATH="$(CURDIR)/$(BIN):$$PATH" bash examples/demo.sh

serve: .venv/installed
	PATH="$(CURDIR)/$(BIN):$$PATH" bash examples/serve.sh

live: .venv/installed
	PATH="$(CURDIR)/$(BIN):$$PATH" bash examples/live.sh

train: .venv/installed
	PATH="$(CURDIR)/$(BIN):$$PATH" bash examples/train.sh

finetune: .venv/installed
	PATH="$(CURDIR)/$(BIN):$$PATH" bash examples/finetune.sh

align: .venv/installed
	PATH="$(CURDIR)/$(BIN):$$PATH" bash examples/align.sh

curate: .venv/installed
	PATH="$(CURDIR)/$(BIN):$$PATH" bash examples/curate.sh $(if $(VIDEOS),"$(VIDEOS)")

chain: .venv/installed
	PATH="$(CURDIR)/$(BIN):$$PATH" SIZE=$(or $(SIZE),tiny) bash examples/chain.sh

test: .venv/tests-installed
	$(BIN)/python -m pytest -m "not slow" $(PARALLEL)

test-slow: .venv/tests-installed
	$(BIN)/python -m pytest -m slow $(PARALLEL)

.venv-newest/installed: pyproject.toml constraints-newest.txt
	@test -n "$(PYTHON312)" || { echo "error: no Python 3.12 found: install one, or give make PYTHON312=PATH"; exit 2; }
	$(PYTHON312) -m venv .venv-newest
	.venv-newest/bin/pip install $(PIP_FLAGS) --constraint constraints-newest.txt --editable ".[train,evaluate,curate,dev]"
	touch $@

# What changes with JAX first: kernels, attention over devices, checkpoints and rollouts; steps and runs are long, and tried on
# the pinned JAX alone.
NEWEST := tests/kernels tests/models/test_dit.py tests/parallel/test_context.py \
	$(addprefix tests/training/test_,rollout.py run_checkpoints.py)
test-newest: .venv-newest/installed
	PATH="$(CURDIR)/.venv-newest/bin:$$PATH" bash examples/newest.sh
	.venv-newest/bin/python -m pytest -m "not slow" $(PARALLEL) $(NEWEST)

.venv-gpu-compile/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-gpu-compile
	.venv-gpu-compile/bin/pip install $(PIP_FLAGS) --constraint constraints.txt --editable ".[gpu-compile,jax-triton,train,dev]"
	touch $@

test-compile: .venv-gpu-compile/installed
	.venv-gpu-compile/bin/python -m benchmarks.kernel_resources --gpus h200 --check docs/kernels.md # an H100's is compiled as it is
	JAX_PLATFORMS=cpu .venv-gpu-compile/bin/python -m pytest tests/kernels/test_jax_triton.py tests/parallel/test_overlap.py
	JAX_PLATFORMS=cpu .venv-gpu-compile/bin/python -m pytest -m skipif tests/test_plan.py tests/test_plan_training.py tests/models/test_streamed.py # those without it: make test

gpu:
	$(PYTHON) -m benchmarks.gpu

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.venv/docs-installed: .venv/installed
	$(BIN)/pip install $(PIP_FLAGS) --constraint constraints.txt --editable ".[docs]"
	touch $@

docs: .venv/docs-installed
	JAX_PLATFORMS=cpu NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

clean:
	rm -rf .venv .venv-newest .venv-gpu-compile .cache outputs
