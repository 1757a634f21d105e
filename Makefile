# `make demo` runs the main job on a fresh machine, `make test` the tests; each makes its own environment first.
# `make test-faults` and `make test-cluster` test what operators meet, `make test-real` scores on real files. `make results-quick` repeats a committed
# result in about ten minutes and compares.

VENV ?= .venv
PYTHON ?= python3
# Another build of torch, e.g. the newest with CUDA: make demo TORCH=torch
TORCH ?= torch==2.13.0
# A file of pip constraints, e.g. the oldest releases that setup.py allows: make test CONSTRAINTS=tests/oldest.txt VENV=.venv-oldest
CONSTRAINTS ?=
# The releases in locked/, each file checked by its hash; torch is of another build on each machine and stands apart. Empty: the
# newest releases that setup.py allows, also for a Python that is newer than those in .github/workflows/ci.yml.
LOCKED ?= $(if $(CONSTRAINTS),,locked)
BIN := $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet
# Tests wait for ranks that start and stop more than they compute: four files at a time keep two cores busy,
# with a thread each: more would wait for each other. In the order of folders, which has the long files first.
BESIDE := --dist loadfile --no-loadscope-reorder

.PHONY: demo test pytest test-faults test-learning test-cluster test-real results-quick gpu wheels lint style types environment lock clean

demo: environment
	$(BIN)/python launcher/demo.py --to demo

# Types are checked beside the tests, a minute of one core; and against the newest releases alone: what older ones say of
# themselves is not ours.
test: style
	$(MAKE) --no-print-directory --jobs 2 --keep-going $(if $(CONSTRAINTS),,types) pytest

pytest: environment
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 4 $(BESIDE)

# Kills, full disks, signals, another number of ranks: what a job must survive. Prints the steps lost and the seconds to the first step after each.
test-faults: environment
	$(BIN)/python -m pytest tests -m faults -n 3 $(BESIDE)

# What models must have learnt after minutes of training: text alone becomes translation. Two and a half minutes of a core.
test-learning: environment
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/learning -m learning -rP

# Two hosts of network namespaces, sshd in each, pdsh, the real deepspeed --hostfile. Needs root, openssh-server and pdsh.
test-cluster: environment
	$(BIN)/python -m pytest tests/cluster -m cluster -rs

# Needs apt (Debian, Ubuntu): the text is LibreOffice's, from Debian's packages. docs/results/quick.md
results-quick: environment
	$(BIN)/python benchmarks/results_quick.py --to quick

# Every fine-tuning task from its command to its scores on whole public files, counted once more; in ERNIE_M_REAL_DATA, with
# eval/xnli/dev-en.tsv and so on.
test-real: environment
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/real -m real -rs -n 2

# The day a GPU is there: all that only a GPU can say, on one page in benchmarks/results/, in at most 25 minutes, without a network.
# SIZE=small runs every part on the CPU. Takes the machine's own torch, and from wheels/ what else it needs, where that is filled.
SIZE ?= full
gpu: $(if $(wildcard wheels/requirements.txt),$(VENV)/.offline,environment)
	PYTHONPATH=. $(BIN)/python benchmarks/gpu_day.py --size $(SIZE)

# What `make gpu` needs but torch, for a machine without a network; FOR is its Python, e.g. make wheels FOR=3.12.
FOR ?=
wheels: environment
	$(BIN)/python benchmarks/wheels.py --to wheels $(if $(FOR),--python $(FOR))

$(VENV)/.offline: wheels/requirements.txt
	$(PYTHON) -c "import torch" || { echo "error: $(PYTHON) has no torch; name the machine's own: make gpu PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv --system-site-packages $(VENV)
	$(BIN)/python -m pip install --quiet --no-index --no-deps --find-links wheels -r wheels/requirements.txt
	touch $@

lint: style types

style: environment
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: environment
	$(BIN)/mypy ernie_m data_prep launcher/*.py

environment: $(VENV)/.installed

$(VENV)/.installed: setup.py $(wildcard locked/*.txt)
	$(PYTHON) -m venv $(VENV)
	$(if $(LOCKED),$(INSTALL) --require-hashes --no-deps -r $(LOCKED)/tools.txt,$(INSTALL) --upgrade pip)
	$(if $(LOCKED),$(INSTALL) --require-hashes --no-deps --no-build-isolation -r $(LOCKED)/packages.txt)
	$(INSTALL) $(TORCH)
	$(INSTALL) $(if $(LOCKED),--no-deps --no-build-isolation -e .,$(addprefix --constraint ,$(CONSTRAINTS)) -e ".[dev]")
	touch $@

# locked/ anew: the newest releases that setup.py allows, for every Python and system at once. What builds the packages that have
# no wheels (deepspeed, seqeval) is locked too, and comes first. torch and what it alone brings are left out.
LOCK := build/lock
COMPILE = $(LOCK)/bin/uv --quiet pip compile --universal --python-version 3.11 --generate-hashes --upgrade --no-annotate \
	--custom-compile-command "make lock"
lock:
	$(PYTHON) -m venv $(LOCK)
	$(LOCK)/bin/python -m pip install --quiet uv
	printf 'pip\nsetuptools>=77.0.3\nsetuptools-scm\n' > $(LOCK)/tools.in
	printf 'torch; python_version < "0"\n' > $(LOCK)/without.txt
	mkdir -p locked
	$(COMPILE) $(LOCK)/tools.in -o locked/tools.txt
	$(COMPILE) setup.py --extra dev --overrides $(LOCK)/without.txt -c locked/tools.txt -o locked/packages.txt

clean:
	rm -rf demo build *.egg-info
