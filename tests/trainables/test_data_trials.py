"""Trials on image folders: resumed bitwise for each loader, and left in flight when their data are damaged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from images import make_folder
from test_train import numbers, run

from studies.harness.cluster.stopping import Stop
from trainables import workloads
from trainables.config import TrialConfig
from trainables.data import DataError
from trainables.ray_trainable import PROBLEM, TrialTrainable
from trainables.store import TrialStore

ROOT = Path(__file__).parents[2]
BY_THE_DEVICE = {"crop_padding": 2, "flip": True}
BY_WORKERS = {
    "random_resized_crop": True,
    "trivial_augment": True,
    "resolution": 12,
    "random_erasing": 0.5,
}


def resolved(folder: Path, **recipe: object) -> TrialConfig:
    return workloads.resolve(
        f"imagefolder:{folder}/resnet20", "nysact-s", recipe={"batch_size": 8, **recipe}
    )


@pytest.mark.parametrize(
    ("side", "settings"), [(8, BY_THE_DEVICE), (8, BY_WORKERS), (70, BY_WORKERS)]
)
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(tmp_path: Path, side: int, settings: dict):
    folder = make_folder(tmp_path / "images", side=side, mixed=side > 64)
    config = resolved(folder, epochs=3, **settings)
    whole = run(tmp_path / "whole", config)
    stopped = run(tmp_path / "stopped", config, stop_after=2)
    loaded = stopped.load()
    assert stopped.status() is None and loaded is not None and loaded[0] == 1
    assert numbers(run(tmp_path / "stopped", config)) == numbers(whole) and len(whole.epochs()) == 3


def test_damaged_data_leave_a_trial_in_flight_until_they_are_restored(tmp_path: Path):
    folder = make_folder(tmp_path / "images")
    config = resolved(folder, epochs=2)
    image = folder / "train" / "dog" / "005.png"
    content = image.read_bytes()
    image.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"dog/005\.png: not a readable image"):
        run(tmp_path / "out", config)
    assert TrialStore(tmp_path / "out", config).status() is None
    image.write_bytes(content)
    assert (run(tmp_path / "out", config).status() or {})["status"] == "completed"


def test_a_worker_reports_damaged_data_and_the_driver_stops():
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


def test_a_run_on_damaged_data_exits_4_without_a_status(tmp_path: Path):
    folder = make_folder(tmp_path / "pictures")
    resolved(folder)
    image = folder / "train" / "dog" / "005.png"
    image.write_bytes(image.read_bytes()[:100])
    flags = "--workload imagefolder:pictures/resnet20 --optimizers sgd --seeds 2 --epochs 1 --set batch_size=8 --json"
    command = [
        sys.executable,
        str(ROOT / "studies" / "ablation_rank.py"),
        *flags.split(),
        "--tracking-uri",
        "none",
    ]
    command += ["--data-dir", str(tmp_path), "--out", str(tmp_path / "out")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 4, ended.stderr
    problem, command_again = ended.stderr.splitlines()[-2:]
    assert problem.startswith(
        f"error: {image}: not a readable image (100 bytes). Restore or remove it; nothing"
    )
    assert (
        command_again.startswith("  python ") and "imagefolder:pictures/resnet20" in command_again
    )
    assert not list((tmp_path / "out" / "trials").glob("*/status.json"))
