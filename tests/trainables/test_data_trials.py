"""Tests of trials on image folders: resuming bitwise with each loader, and damaged data."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from images import make_folder
from test_train import deterministic_metrics, run_trial

from studies.harness.cluster.stopping import Stop
from trainables import workloads
from trainables.config import TrialConfig
from trainables.data import DataError
from trainables.ray_trainable import PROBLEM, TrialTrainable
from trainables.store import TrialStore

ROOT = Path(__file__).parents[2]
ON_THE_DEVICE = {"crop_padding": 2, "flip": True}
IN_WORKERS = {
    "random_resized_crop": True,
    "trivial_augment": True,
    "resolution": 12,
    "random_erasing": 0.5,
}


def resolve_on_images(folder: Path, **recipe: object) -> TrialConfig:
    return workloads.resolve(
        f"imagefolder:{folder}/resnet20", "nysact-s", recipe={"batch_size": 8, **recipe}
    )


@pytest.mark.parametrize(
    ("side", "settings"), [(8, ON_THE_DEVICE), (8, IN_WORKERS), (70, IN_WORKERS)]
)
def test_resumed_trial_on_images_is_bitwise_equal(tmp_path: Path, side: int, settings: dict):
    folder = make_folder(tmp_path / "images", side=side, mixed=side > 64)
    config = resolve_on_images(folder, epochs=3, **settings)
    uninterrupted = run_trial(tmp_path / "uninterrupted", config)
    stopped = run_trial(tmp_path / "stopped", config, stop_after=2)
    loaded = stopped.load()
    assert stopped.status() is None and loaded is not None and loaded[0] == 1
    assert deterministic_metrics(run_trial(tmp_path / "stopped", config)) == deterministic_metrics(
        uninterrupted
    )
    assert len(uninterrupted.epochs()) == 3


def test_trial_with_damaged_data_has_no_status_and_can_be_resumed(tmp_path: Path):
    folder = make_folder(tmp_path / "images")
    config = resolve_on_images(folder, epochs=2)
    image = folder / "train" / "dog" / "005.png"
    content = image.read_bytes()
    image.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"dog/005\.png: not a readable image"):
        run_trial(tmp_path / "out", config)
    assert TrialStore(tmp_path / "out", config).status() is None
    image.write_bytes(content)
    assert (run_trial(tmp_path / "out", config).status() or {})["status"] == "completed"


def test_driver_stops_when_a_worker_reports_damaged_data():
    def damaged():
        raise DataError("images/1.png: not a readable image")
        yield

    trainable = TrialTrainable.__new__(TrialTrainable)
    trainable._epochs, trainable._report_every = damaged(), 0.0
    result = trainable.train()
    assert result == {"done": True, PROBLEM: "images/1.png: not a readable image"}
    stop = Stop(lambda reason: 4)
    assert not stop("one", {"epoch": 0}) and not stop.stop_all()
    assert stop("two", result) and stop.stop_all() and stop.problem == result[PROBLEM]


def test_study_with_damaged_data_exits_with_4(tmp_path: Path):
    folder = make_folder(tmp_path / "pictures")
    resolve_on_images(folder)
    image = folder / "train" / "dog" / "005.png"
    image.write_bytes(image.read_bytes()[:100])
    flags = (
        "--workload imagefolder:pictures/resnet20 --optimizers sgd --seeds 2 --epochs 1 "
        "--set batch_size=8 --json --tracking-uri none"
    )
    command = [sys.executable, str(ROOT / "studies" / "ablation_rank.py"), *flags.split()]
    command += ["--data-dir", str(tmp_path), "--out", str(tmp_path / "out")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 4, ended.stderr
    problem, repeated_command = ended.stderr.splitlines()[-2:]
    assert problem.startswith(
        f"error: {image}: not a readable image (100 bytes). Restore or remove it; all"
    )
    assert repeated_command.startswith("  python ")
    assert "imagefolder:pictures/resnet20" in repeated_command
    assert not list((tmp_path / "out" / "trials").glob("*/status.json"))
