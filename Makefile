# make demo | test | soak | lint | dashboard: each sets up .venv first, from nothing but Python >= 3.11.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test soak lint dashboard clean

demo: .venv/ready
	$(BIN)/python train.py experiment=demo

test: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

# A hundred processes killed, thousands of damaged files: half an hour on two cores.
soak: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -s

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

dashboard: .venv/ready
	$(BIN)/tensorboard --logdir outputs --samples_per_plugin images=200

.venv/ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 14) else "error: Python 3.11, 3.12 or 3.13 is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

# Removes the environment. Data and outputs stay.
clean:
	rm -rf .venv
