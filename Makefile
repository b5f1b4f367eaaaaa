# `make study` and `make test` set up .venv first where it is missing or older than the lock.
PYTHON ?= python3.11
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help setup setup-ui docs study studies test test-slow test-cluster mutants faults faults-ci audit lint ui lock

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
	@echo "make audit   known holes in the locked packages, asked of PyPI"
	@echo "make docs    the documentation, in docs/_build/html"
	@echo "make lint    ruff and pyright"
	@echo "make ui      the MLflow UI on http://127.0.0.1:5000"
	@echo "make lock    renew requirements.lock from pyproject.toml"

setup: $(READY)

# The locked set, hash-checked, in about a minute. Compiling the bytecode now halves the start of every later process.
# UV_TORCH_BACKEND names another build of torch, such as `cpu`: its hashes are not in the lock, and it needs no CUDA.
$(READY): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
ifndef UV_TORCH_BACKEND
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --compile-bytecode -r requirements.lock
else
	awk '/^[a-z]/ { keep = !/^(torch|torchvision|triton|nvidia-.*|cuda-.*)==/ } keep' requirements.lock > .venv/others.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --require-hashes --compile-bytecode -r .venv/others.lock
	grep -oE '^(torch|torchvision)==[^ ]+' requirements.lock > .venv/torch.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --compile-bytecode -r .venv/torch.txt
endif
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@

# The browser is the system's: playwright's own would be a download of its own.
setup-ui: setup
	command -v chromium >/dev/null || { apt-get update && apt-get install -y --no-install-recommends chromium; }
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --compile-bytecode -r requirements-ui.lock

# Five seeds where the paper has three: on digits they cost little.
study: setup
	$(BIN)/python studies/ablation_rank.py --seeds 5

# Costs first and once, since times to a target are read with them; then the grids with one driver, so that what
# several of them need trains once; then what has a driver of its own. Failed trials (exit code 1) are in the reports
# and keep nothing back.
COSTS := outputs/cost/.digits-cnn
GRIDS := $(notdir $(basename $(wildcard studies/ablation_*.py studies/compare_accuracy.py studies/time_to_target*.py)))
OTHERS := $(wildcard $(addprefix studies/,tune_optimizers.py covariance_heatmap.py activation_norms.py))

studies: setup $(COSTS)
	@failed=0; \
	run() { $(BIN)/python "$$@" || { code=$$?; [ $$code -eq 1 ] || exit $$code; failed=1; }; }; \
	run -m studies run $(GRIDS); \
	for file in $(OTHERS); do run $$file; done; \
	exit $$failed

$(COSTS): | setup
	$(BIN)/python studies/compare_cost.py --workload digits/cnn --batch-size 64
	touch $@

# In two processes, a file in one: what a file sets up is set up once. The `slow` ones have a target of their own.
test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: setup
	$(BIN)/python -m pytest -m slow

# As root, with Debian's openssh-server, rsync and iproute2: machines made of namespaces. One test at a time.
test-cluster: setup
	$(BIN)/python -m pytest -m cluster -rs tests/cluster

mutants: setup
	$(BIN)/python -m tests.mutants

# A line of JSON each; `python -m tests.faults SCENARIO --n N --seed S` repeats one.
faults: setup
	$(BIN)/python -W error -m tests.faults corrupt torn nth sim equal diverge inputs commands double tracking signals kill

faults-ci: setup
	$(BIN)/python -W error -m tests.faults corrupt=1000 torn=1 nth=20 sim=40 equal=3 diverge=6 inputs=150 commands=2 \
		double=5 signals=1 kill=2

# Known holes in what is locked; asks PyPI, so it is no part of .ci/run.
audit: setup
	$(BIN)/uv tool run pip-audit==2.10.1 --strict --disable-pip --require-hashes -r requirements.lock

# Nothing is fetched: themes, scripts and formulas come with the packages. A warning is an error.
docs: setup
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "open docs/_build/html/index.html"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

ui: setup
	$(BIN)/python -m studies ui

lock:
	$(BIN)/uv pip compile --quiet --generate-hashes --python-version 3.11 --no-annotate --no-header \
		--extra studies --extra peers --extra aws --extra docs --extra dev pyproject.toml -o requirements.lock
	sed -n 's/^ui = \["\(.*\)"\].*/\1/p' pyproject.toml | $(BIN)/uv pip compile --quiet --generate-hashes \
		--python-version 3.11 --no-annotate --no-header - -o requirements-ui.lock
