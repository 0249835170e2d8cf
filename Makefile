# run, play, test, lint: each makes .venv from the pinned lock when it is missing. State lives under .moworld/.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

# Compiled modules are kept: without them each step of a run compiles torch and Diffusers anew, nine seconds a time.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run play test golden lint lock clean

run: .venv/installed
	$(BIN)/moworld run lifecycle --profile pocket

play: .venv/installed
	$(BIN)/moworld play

test: .venv/installed
	$(BIN)/python -m pytest -q -m "not slow and not images"

# The compiled pipelines that tests compare with: look at the diff before it is committed.
golden: .venv/installed
	MOWORLD_GOLDEN=write $(BIN)/python -m pytest -q tests/pipelines/test_engine_kubeflow.py -k golden

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.venv: .venv/installed

.venv/installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "Python 3.11 is needed: make PYTHON=/path/to/python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -qq --no-deps --no-compile -r requirements.lock
	$(BIN)/python -m pip install -qq --no-deps --no-build-isolation -e .
	touch $@

# Resolves pyproject.toml anew, keeping the pins that still fit (UPGRADE=1 drops them), with uv in an environment of its own; the lock names no index and no folder of a machine.
lock: .venv/installed
	rm -rf build/lock && $(PYTHON) -m venv build/lock && build/lock/bin/python -m pip install -q uv
	echo "setuptools>=77" > build/lock/setuptools.in
	links=$$(build/lock/bin/python -m pip config get global.find-links 2>/dev/null || true); \
	extra=$$(build/lock/bin/python -m pip config get global.extra-index-url 2>/dev/null || true); \
	UV_FIND_LINKS="$$links" UV_EXTRA_INDEX_URL="$$extra" UV_INDEX_STRATEGY=unsafe-best-match build/lock/bin/uv pip compile -q --extra dev --no-header --no-annotate \
	  --no-emit-index-url --no-emit-find-links --python-version 3.11 $(if $(UPGRADE),,--constraint requirements.lock) \
	  -o build/lock/requirements.txt pyproject.toml build/lock/setuptools.in
	{ head -n 1 requirements.lock; sed 's/+cpu//' build/lock/requirements.txt; } > build/lock/requirements.lock
	mv build/lock/requirements.lock requirements.lock
	$(BIN)/python -m components.platform.images

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
