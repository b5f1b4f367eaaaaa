# Most targets first install .venv if it is missing or older than requirements.lock or pyproject.toml.
PYTHON ?= python3.11
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help setup setup-ui setup-kubernetes docs study studies test test-slow test-cluster test-slurm test-peers test-kuberay test-statistics mutants faults faults-ci audit lint ui lock

help:
	@echo "make setup         install everything into .venv"
	@echo "make setup-ui      install chromium (Debian) and playwright, which the tests of MLflow's pages need"
	@echo "make setup-kubernetes  install Ray's dashboard, which starts the jobs of Kubernetes, into the image of deploy/Dockerfile"
	@echo "make study         run the rank ablation and write its report"
	@echo "make studies       run every study on digits, within an hour on two cores; run this again to resume"
	@echo "make test          run the tests"
	@echo "make test-slow     test a step of every large model with every optimizer; this is slow"
	@echo "make test-cluster  test real Ray clusters of several nodes; tests that this machine cannot run are skipped"
	@echo "make test-slurm    test jobs on a real Slurm of two nodes on this machine"
	@echo "make test-peers NYSACT=PATH  compare with the authors' optimizers in a checkout of hseung88/nysact"
	@echo "make test-kuberay KUBERAY=PATH  compare deploy/kuberay.yaml with the schemas in a checkout of ray-project/kuberay"
	@echo "make test-statistics  measure the error rates of the statistics on simulated tables, in a few minutes"
	@echo "make mutants       plant every known bug in turn; each must make a test fail"
	@echo "make faults        inject the full number of faults, which takes hours"
	@echo "make faults-ci     inject fewer faults, in a few minutes"
	@echo "make audit         look up known vulnerabilities of the locked packages on PyPI"
	@echo "make docs          build the documentation, in docs/_build/html"
	@echo "make lint          run ruff and pyright"
	@echo "make ui            start the MLflow UI on http://127.0.0.1:5000"
	@echo "make lock          compile requirements.lock from pyproject.toml"

setup: $(READY)

# Install the locked packages and check their hashes; this takes about a minute. Compiling the bytecode
# halves the start-up time of every later process. UV_TORCH_BACKEND selects another build of torch, such as `cpu`,
# which needs no CUDA packages and whose hashes are not in the lock.
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

# Use the system's browser, because playwright's would be another download.
setup-ui: setup
	command -v chromium >/dev/null || { apt-get update && apt-get install -y --no-install-recommends chromium; }
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --compile-bytecode -r requirements-ui.lock

# KubeRay asks Ray's dashboard and its agents whether a node is ready, and submits the study to the dashboard.
setup-kubernetes: setup
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --compile-bytecode -r requirements-kubernetes.lock

study: setup
	$(BIN)/python studies/ablation_rank.py

# Measure the costs first and once, because the reports of times to a target use them. Then run all grids
# with one command, so that a trial which several of them need is trained once. Then run the other studies.
# Continue after failed trials (exit code 1), which the reports count.
COSTS := outputs/cost/.digits-autoencoder
GRIDS := $(notdir $(basename $(wildcard studies/ablation_*.py studies/compare_accuracy.py studies/time_to_target*.py)))
OTHERS := $(wildcard $(addprefix studies/,tune_optimizers.py covariance_heatmap.py activation_norms.py))

studies: setup $(COSTS)
	@failed=0; \
	run() { $(BIN)/python "$$@" || { code=$$?; [ $$code -eq 1 ] || exit $$code; failed=1; }; }; \
	run -m studies run $(GRIDS); \
	for file in $(OTHERS); do run $$file; done; \
	exit $$failed

$(COSTS): | setup
	$(BIN)/python studies/compare_cost.py --workload digits/autoencoder --batch-size 40
	touch $@

# Use two processes, and run each file in one of them, so that module fixtures are created once.
test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: setup
	$(BIN)/python -m pytest -m slow

# Requires root and Debian's openssh-server, rsync and iproute2, because the tests simulate machines with
# network namespaces.
test-cluster: setup
	$(BIN)/python -m pytest -m cluster -rs tests/cluster

# Requires root and Debian's slurm-wlm and munge, in addition to the packages above.
test-slurm: setup
	$(BIN)/python -m pytest -m cluster -rs tests/cluster/test_slurm_jobs.py

# The authors' code is not a part of this repository. Without NYSACT, the tests are skipped.
test-peers: setup
	NYSACT="$(NYSACT)" $(BIN)/python -m pytest -m peers -rs tests/precond/test_released.py

# KUBERAY is a checkout of ray-project/kuberay, whose schemas are too large for this repository.
test-kuberay: setup
	KUBERAY="$(KUBERAY)" $(BIN)/python -m pytest -m cluster -rs tests/cluster/test_kuberay_schema.py

# The measured rates are printed as a table, of which docs/statistics.md has a copy.
test-statistics: setup
	$(BIN)/python -m pytest -m statistics tests/studies/evidence

mutants: setup
	$(BIN)/python -m tests.mutants

# Each scenario prints a line of JSON. `python -m tests.faults SCENARIO --n N --seed S` repeats it.
faults: setup
	$(BIN)/python -W error -m tests.faults corrupt torn nth sim equal diverge inputs commands double tracking signals kill

faults-ci: setup
	$(BIN)/python -W error -m tests.faults corrupt=1000 torn=1 nth=20 sim=40 equal=3 diverge=6 inputs=150 commands=2 \
		double=5 signals=1 kill=2

# This is not a part of .ci/run, because it needs PyPI.
audit: setup
	$(BIN)/uv tool run pip-audit==2.10.1 --strict --disable-pip --require-hashes -r requirements.lock

# The build downloads nothing, because the packages contain the theme and its scripts. A warning is an error.
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
		--extra studies --extra peers --extra aws --extra wandb --extra tensorboard --extra csv --extra docs --extra dev \
		pyproject.toml -o requirements.lock
	sed -n 's/^ui = \["\(.*\)"\].*/\1/p' pyproject.toml | $(BIN)/uv pip compile --quiet --generate-hashes \
		--python-version 3.11 --no-annotate --no-header - -o requirements-ui.lock
	sed -n 's/^kubernetes = \["\(.*\)"\].*/\1/p' pyproject.toml | $(BIN)/uv pip compile --quiet --generate-hashes \
		--python-version 3.11 --no-annotate --no-header -c requirements.lock - -o requirements-kubernetes.lock
