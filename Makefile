# `make study` and `make test` set up .venv first where it is missing or older than the lock.
PYTHON ?= python3.11
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help setup setup-ui study studies test test-slow test-cluster mutants faults faults-ci lint ui lock

help:
	@echo "make setup   install everything into .venv"
	@echo "make setup-ui  what the tests of the UI's pages need: Debian's chromium and playwright"
	@echo "make study   the rank ablation, with its report"
	@echo "make studies every study, on digits, within an hour on two cores; killed, it goes on where it was"
	@echo "make test    the tests"
	@echo "make test-slow  a step of every large model with every optimizer, which takes long"
	@echo "make test-cluster  real Ray clusters of several nodes: what it needs and lacks is skipped with the reason"
	@echo "make mutants every known bug planted in turn: each must make a test fail"
	@echo "make faults  everything broken on purpose, as often as the goals say, which takes hours"
	@echo "make faults-ci  the same in a few minutes"
	@echo "make lint    ruff and pyright"
	@echo "make ui      the MLflow UI on http://127.0.0.1:5000"
	@echo "make lock    renew requirements.lock from pyproject.toml"

setup: $(READY)

# The locked set, hash-checked, in about a minute. Compiling the bytecode now halves the start of every later process.
$(READY): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --compile-bytecode -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

# The browser is the system's: playwright's own would be a download of its own.
setup-ui: setup
	command -v chromium >/dev/null || { apt-get update && apt-get install -y --no-install-recommends chromium; }
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --compile-bytecode -r requirements-ui.lock

# Five seeds where the paper has three: on digits they cost little.
study: setup
	$(BIN)/python studies/ablation_rank.py --seeds 5

# The grids with one driver, so that what several of them need trains once; then those that have one of their own.
# Failed trials (exit code 1) are in the reports and do not keep the rest from running.
GRIDS := $(notdir $(basename $(wildcard studies/ablation_*.py studies/compare_accuracy.py)))
OTHERS := $(wildcard $(addprefix studies/,time_to_target.py tune_optimizers.py covariance_heatmap.py activation_norms.py))

studies: setup
	@failed=0; \
	run() { $(BIN)/python "$$@" || { code=$$?; [ $$code -eq 1 ] || exit $$code; failed=1; }; }; \
	run -m studies run $(GRIDS); \
	for file in $(OTHERS); do run $$file; done; \
	run studies/compare_cost.py --workload digits/cnn --batch-size 64; \
	exit $$failed

# In two processes, a file in one: what a file sets up is set up once. The `slow` ones have a target of their own.
test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: setup
	$(BIN)/python -m pytest -m slow

# As root, with Debian's openssh-server, rsync and iproute2: machines made of namespaces. One test at a time.
test-cluster: setup
	$(BIN)/python -m pytest -m cluster -rs tests/cluster

mutants: setup
	$(BIN)/python tests/mutants.py

# Each prints a line of JSON; `python -m tests.faults SCENARIO --n N --seed S` repeats one.
faults: setup
	for scenario in corrupt torn nth sim equal diverge inputs double tracking signals kill; do \
		$(BIN)/python -W error -m tests.faults $$scenario || exit 1; done

faults-ci: setup
	$(BIN)/python -m tests.faults corrupt --n 2000
	$(BIN)/python -m tests.faults torn --n 1
	$(BIN)/python -m tests.faults nth --n 25
	$(BIN)/python -m tests.faults sim --n 60
	$(BIN)/python -m tests.faults equal --n 3
	$(BIN)/python -m tests.faults diverge --n 6
	$(BIN)/python -m tests.faults inputs --n 150
	$(BIN)/python -m tests.faults double --n 5
	$(BIN)/python -m tests.faults signals --n 1
	$(BIN)/python -m tests.faults kill --n 2

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

ui: setup
	$(BIN)/python -m studies ui

lock:
	$(BIN)/uv pip compile --quiet --generate-hashes --python-version 3.11 --no-annotate --no-header \
		--extra studies --extra peers --extra aws --extra dev pyproject.toml -o requirements.lock
	sed -n 's/^ui = \["\(.*\)"\].*/\1/p' pyproject.toml | $(BIN)/uv pip compile --quiet --generate-hashes \
		--python-version 3.11 --no-annotate --no-header - -o requirements-ui.lock
