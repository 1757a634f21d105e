# `make demo` runs the main job on a fresh machine, `make test` the tests; each makes its own environment first.
# `make test-faults` and `make test-cluster` test what operators meet, `make test-real` scores on real files.

VENV ?= .venv
PYTHON ?= python3
# Another build of torch, e.g. the newest with CUDA: make demo TORCH=torch
TORCH ?= torch==2.13.0
BIN := $(VENV)/bin
# Tests wait for ranks that start and stop more than they compute: three files at a time keep two cores busy,
# with a thread each: more would wait for each other. In the order of folders, which has the long files first.
BESIDE := -n 3 --dist loadfile --no-loadscope-reorder

.PHONY: demo test test-faults test-cluster test-real lint environment clean

demo: environment
	$(BIN)/python launcher/demo.py --to demo

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(BESIDE)

# Kills, full disks, signals, another number of ranks: what a job must survive. Prints the steps lost and the seconds to the first step after each.
test-faults: environment
	$(BIN)/python -m pytest tests -m faults $(BESIDE)

# Two hosts of network namespaces, sshd in each, pdsh, the real deepspeed --hostfile. Needs root, openssh-server and pdsh.
test-cluster: environment
	$(BIN)/python -m pytest tests/cluster -m cluster -rs

# Every fine-tuning task from its command to its scores on whole public files, counted once more; in ERNIE_M_REAL_DATA, with
# eval/xnli/dev-en.tsv and so on.
test-real: environment
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/real -m real -rs -n 2

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
