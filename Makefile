# Each target makes .venv from the locks when it is missing or older than they are. State is under .moworld/.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
BIN := .venv/bin

# Compiled modules are kept: without them each step of a run compiles torch and Diffusers again, nine seconds a time.
unexport PYTHONDONTWRITEBYTECODE
export TORCH_INDEX TORCH_PACKAGES INSTALLER

.PHONY: run play test cluster-test check golden lint lock readmes clean

run: .venv/all
	$(BIN)/moworld run lifecycle --profile pocket

play: .venv/base
	$(BIN)/moworld play

test: .venv/all
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --durations=10 -m "not slow and not images"

# Tests on a real API server with the controllers of JobSet and Trainer. Needs Go 1.26 or newer once, to build them (tests/cluster/build.py).
cluster-test: .venv/all
	$(BIN)/python -m tests.cluster.build
	$(BIN)/python -m tests.cluster.build kueue argo
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -rs --durations=5 tests/cluster

# What a contributor runs before a commit: lint, types, and the tests that start no service and train nothing.
QUICK := tests/docs tests/installation tests/manifests tests/moworld/camera tests/moworld/kernels tests/moworld/model \
  tests/moworld_ops/data_contracts tests/test_layers.py
check: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow and not images" $(QUICK)

# The compiled pipelines that tests compare with: look at the diff before it is committed.
golden: .venv/all
	MOWORLD_GOLDEN=write $(BIN)/python -m pytest -q tests/moworld_ops/pipelines/test_engine_kubeflow.py -k golden

lint: .venv/all
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# READMEs of the component folders, from their docstrings and signatures.
readmes: .venv/all
	$(BIN)/python -m moworld_ops.components.readmes

.venv/base: requirements.torch.lock requirements.base.lock pyproject.toml tools/install.py
	$(PYTHON) tools/install.py base
	touch $@

.venv/all: requirements.torch.lock requirements.lock pyproject.toml tools/install.py
	$(PYTHON) tools/install.py all
	touch .venv/base $@

# Resolves pyproject.toml again, keeping the pins that still fit (UPGRADE=1 drops them).
lock: .venv/all
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python tools/locks.py
	$(BIN)/python -m moworld_ops.components.platform.images

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
