# `make demo` runs the main job on a fresh machine, `make test` the tests; each makes its own environment first.

VENV ?= .venv
PYTHON ?= python3
# Another build of torch, e.g. the newest with CUDA: make demo TORCH=torch
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin

.PHONY: demo test lint environment clean

demo: environment
	$(BIN)/python launcher/demo.py --to demo

test: lint
	$(BIN)/python -m pytest

lint: environment
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy ernie_m data_prep launcher/*.py

environment: $(VENV)/.installed

$(VENV)/.installed: setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	touch $@

clean:
	rm -rf demo build *.egg-info
