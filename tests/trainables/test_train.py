"""The training loop: resuming, common random numbers, and the statuses of a trial."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from trainables import train, workloads
from trainables.config import TrialConfig
from trainables.data import Loading
from trainables.descent import schedule
from trainables.store import TrialStore
from trainables.train import Trainer, epochs

LOADING = Loading(device=torch.device("cpu"), data_dir=Path("data"), settings={})


@pytest.fixture
def config() -> TrialConfig:
    return workloads.resolve("digits/cnn", "nysact-g", {}, recipe={"epochs": 4})


def run_trial(root: Path, config: TrialConfig, stop_after: int | None = None) -> TrialStore:
    """Train with a commit after each epoch, and simulate a killed worker after `stop_after`."""
    store = TrialStore(root, config)
    store.create()
    generator = epochs(config, store, commit_every=0)
    for count, _ in enumerate(generator, start=1):
        if count == stop_after:
            break
    return store


def deterministic_metrics(store: TrialStore) -> list[dict[str, float]]:
    """Return the committed metrics that do not depend on the machine."""
    machine = ("time/", "mem/", "system/")
    lines = [line["metrics"] for line in store.epochs()]
    return [{k: v for k, v in line.items() if not k.startswith(machine)} for line in lines]


def test_resume_after_kill_is_bitwise(tmp_path: Path, config: TrialConfig):
    complete = run_trial(tmp_path / "complete", config)
    for stop in (1, 2, 3):
        root = tmp_path / f"stopped-{stop}"
        assert TrialStore(root, config).load() is None
        stopped = run_trial(root, config, stop_after=stop)
        assert stopped.status() is None
        assert (loaded := stopped.load()) is not None and loaded[0] == stop - 1
        resumed = run_trial(root, config)
        assert deterministic_metrics(resumed) == deterministic_metrics(complete)
        assert [line["epoch"] for line in resumed.epochs()] == [0, 1, 2, 3]
        assert (resumed.status() or {})["status"] == "completed"


@pytest.mark.parametrize("commit_every", [0, 1e9])
def test_a_worker_ordered_to_leave_commits_once_and_ends(
    tmp_path: Path, config: TrialConfig, commit_every: float
):
    complete = run_trial(tmp_path / "complete", config)
    store = TrialStore(tmp_path, config)
    store.create()
    running = epochs(config, store, commit_every=commit_every)
    assert [next(running)["epoch"], next(running)["epoch"]] == [0, 1]
    with pytest.raises(StopIteration):
        running.send(True)
    assert (loaded := TrialStore(tmp_path, config).load()) is not None and loaded[0] == 1
    assert deterministic_metrics(run_trial(tmp_path, config)) == deterministic_metrics(complete)


def test_a_completed_trial_is_not_trained_or_changed(tmp_path: Path, config: TrialConfig):
    store = run_trial(tmp_path, config)
    before = {path: path.read_bytes() for path in store.folder.iterdir()}
    assert list(epochs(config, store)) == []
    assert {path: path.read_bytes() for path in store.folder.iterdir()} == before


def test_an_optimizer_that_needs_second_derivatives_trains(tmp_path: Path):
    settings = {"rank": 2, "interval": 5}
    store = run_trial(
        tmp_path, workloads.resolve("digits/cnn", "sketchysgd", settings, recipe={"epochs": 1})
    )
    assert (store.status() or {})["status"] == "completed"


def test_resume_after_a_kill_before_the_status_writes_the_status(
    tmp_path: Path, config: TrialConfig
):
    store = run_trial(tmp_path, config)
    (store.folder / "status.json").unlink()
    assert list(epochs(config, store)) == []
    assert (store.status() or {})["status"] == "completed" and len(store.epochs()) == config.epochs


def test_arms_with_equal_seeds_have_equal_initial_weights(config: TrialConfig):
    cpu = torch.device("cpu")
    sgd = workloads.resolve("digits/cnn", "sgd", recipe={"epochs": 4})
    first, second = Trainer(config, cpu), Trainer(sgd, cpu)
    for p, q in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert p.equal(q)
    other_seed = Trainer(config.with_seed(1), cpu)
    assert not next(first.model.parameters()).equal(next(other_seed.model.parameters()))


def test_the_order_depends_on_the_seed_and_a_smaller_last_batch_is_dropped():
    data = workloads.workload("digits/cnn").source.load(LOADING)
    assert [len(data.train_targets), len(data.test_targets)] == [1197, 600]
    batches = list(data.train_batches(64, seed=1))
    assert len(batches) == 18 and all(len(labels) == 64 for _, labels in batches)
    assert not batches[0][1].equal(next(data.train_batches(64, seed=2))[1])
    assert batches[0][1].equal(next(data.train_batches(64, seed=1))[1])


def test_training_and_test_set_are_stratified_and_disjoint():
    data = workloads.workload("digits/cnn").source.load(LOADING)
    train, test = torch.bincount(data.train_targets), torch.bincount(data.test_targets)
    assert (test / (train + test) - 600 / 1797).abs().max() < 0.01
    train_images = {tuple(image.flatten().tolist()) for image in data.train_inputs}
    assert not any(tuple(image.flatten().tolist()) in train_images for image in data.test_inputs)


def test_the_status_of_a_diverged_trial_has_epoch_and_step(tmp_path: Path):
    config = workloads.resolve("digits/cnn", "sgd", {"lr": 1e20}, recipe={"epochs": 2})
    store = run_trial(tmp_path, config)
    status = store.status() or {}
    assert status["status"] == "diverged"
    assert status["epoch"] == 0 and status["step"] >= 1 and status["value"] in ("nan", "inf")
    json.dumps(status, allow_nan=False)
    assert "diverged" in (store.folder / "log.txt").read_text()


def test_an_error_gives_the_status_failed_and_its_traceback_is_logged(
    tmp_path: Path, config: TrialConfig, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Trainer, "evaluate", lambda self: 1 / 0)
    store = run_trial(tmp_path, config)
    status = store.status() or {}
    assert status["status"] == "failed" and "ZeroDivisionError" in status["reason"]
    assert "Traceback" in (store.folder / "log.txt").read_text()


def test_out_of_memory_gives_the_status_oom(
    tmp_path: Path, config: TrialConfig, monkeypatch: pytest.MonkeyPatch
):
    def exhausted(self: Trainer) -> tuple[float, float]:
        raise torch.OutOfMemoryError("tried to allocate 20 GiB")

    monkeypatch.setattr(Trainer, "evaluate", exhausted)
    assert (run_trial(tmp_path, config).status() or {})["status"] == "oom"


def test_an_input_output_error_gives_no_status(
    tmp_path: Path, config: TrialConfig, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trainables.store.append_lines", full)
    with pytest.raises(OSError, match="No space"):
        run_trial(tmp_path, config)
    assert TrialStore(tmp_path, config).status() is None


def test_a_trial_fails_after_three_lost_workers(tmp_path: Path, config: TrialConfig):
    (tmp_path / ".lock").write_text('{"generation": 1}')
    store = TrialStore(tmp_path, config, generation=1)
    store.create()
    for _ in range(train.MAX_LOST_WORKERS):
        next(epochs(config, store))  # abandoned before its first commit
    assert list(epochs(config, store)) == []
    assert "3 workers died at epoch 0" in (store.status() or {})["reason"]


def test_cosine_and_constant_schedules():
    cosine = schedule("cosine", 10)
    assert [cosine(0), cosine(5), cosine(10)] == pytest.approx([1, 0.5, 0])
    assert schedule("constant", 10)(7) == 1
    with pytest.raises(ValueError, match="cosine or constant"):
        schedule("cosin", 10)


def test_resolve_reports_every_error(config: TrialConfig):
    with pytest.raises(ValueError, match='Did you mean "digits/cnn"'):
        workloads.resolve("digit/cnn", "sgd")
    with pytest.raises(ValueError, match='Did you mean "foof"'):
        workloads.resolve("digits/cnn", "fof")
    with pytest.raises(ValueError, match=r"(?s)damping = 0.*rank = 4\.0"):
        workloads.resolve("digits/cnn", "nysact-s", {"damping": 0, "rank": 4.0})
    with pytest.raises(ValueError, match=r"widest layer .* has 513 inputs"):
        workloads.resolve("digits/cnn", "nysact-s", {"rank": 600})
    assert replace(config, seed=3).trial_key == config.with_seed(3).trial_key


BLOCK_IMPORTS = "import sys\nfor name in {names!r}: sys.modules[name] = None\n"


def test_precond_needs_only_torch():
    """The optimizers take a step although no dependency of the studies can be imported."""
    names = [
        "ray",
        "mlflow",
        "optuna",
        "pandas",
        "sklearn",
        "scipy",
        "matplotlib",
        "click",
        "rich",
        "trainables",
    ]
    script = BLOCK_IMPORTS.format(names=names) + (
        "import torch, precond\n"
        "model = torch.nn.Linear(16, 2)\n"
        "from precond.closures import step\n"
        "for name in precond.available():\n"
        "    if precond.registry.lookup(name).package: continue\n"
        "    optimizer = precond.build(name, model)\n"
        "    def evaluate(): precond.backward(model(torch.ones(3, 16)).sum(), optimizer)\n"
        "    step(optimizer, evaluate)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_epochs_run_without_ray_and_mlflow(tmp_path: Path):
    """A trial completes in a process in which Ray, MLflow and the studies cannot be imported."""
    names = [
        "ray",
        "mlflow",
        "optuna",
        "pandas",
        "scipy",
        "matplotlib",
        "torchvision",
        "click",
        "rich",
        "studies",
    ]
    script = BLOCK_IMPORTS.format(names=names) + (
        "from trainables import workloads\n"
        "from trainables.store import TrialStore\n"
        "from trainables.train import epochs\n"
        "config = workloads.resolve('digits/cnn', 'nysact-s', recipe={'epochs': 2})\n"
        f"store = TrialStore({str(tmp_path)!r}, config)\n"
        "store.create()\n"
        "assert [m['epoch'] for m in epochs(config, store)] == [0, 1]\n"
        "assert store.status()['status'] == 'completed'\n"
        "assert 'sklearn' not in sys.modules\n"  # only its data file is read
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
