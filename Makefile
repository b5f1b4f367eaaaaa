# `make study` and `make test` set up .venv first where it is missing or older than the lock.
PYTHON ?= python3.11
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help setup study test test-slow test-cluster mutants lint ui lock

help:
	@echo "make setup   install everything into .venv"
	@echo "make study   the rank ablation, with its report"
	@echo "make test    the tests"
	@echo "make test-slow  a step of every large model with every optimizer, which takes long"
	@echo "make test-cluster  real Ray clusters of several nodes: what it needs and lacks is skipped with the reason"
	@echo "make mutants every known bug planted in turn: each must make a test fail"
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

study: setup
	$(BIN)/python studies/ablation_rank.py

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

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

ui: setup
	MLFLOW_DISABLE_TELEMETRY=true $(BIN)/mlflow ui --host 127.0.0.1 --port 5000 --workers 1 \
		--backend-store-uri sqlite:///$${PRECOND_OUT:-outputs}/mlflow.db

lock:
	$(BIN)/uv pip compile --quiet --generate-hashes --python-version 3.11 --no-annotate --no-header \
		--extra studies --extra peers --extra aws --extra dev pyproject.toml -o requirements.lock
