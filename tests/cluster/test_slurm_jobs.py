"""Studies on a real Slurm of two nodes (`slurm_machines.py`): Ray, time limits and job arrays."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from machines import ROOT
from slurm_machines import Slurm, skip_reason

from trainables.files import read_lines
from trainables.store import COMPLETED, read_status, trial_folders

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(bool(skip_reason()), reason=skip_reason() or "this host can run the tests"),
]
STUDY = "--seeds 1 --epochs 3 --levels rank=5,10 --commit-every 0 --tracking-uri none"
TRIALS = 6


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[Slurm]:
    machines = Slurm(tmp_path, 2)
    try:
        machines.start()
        yield machines
    finally:
        machines.end()


def completed(root: Path) -> int:
    statuses = [read_status(folder) or {} for folder in trial_folders(root)]
    return sum(status.get("status") == COMPLETED for status in statuses)


def metrics(root: Path) -> dict[str, list[dict[str, float]]]:
    """Return the metrics of each epoch, without times and memory, by trial folder."""
    return {
        folder.name: [
            {
                name: value
                for name, value in line["metrics"].items()
                if not name.startswith(("time/", "mem/", "system/"))
            }
            for line in read_lines(folder / "epochs.jsonl")
        ]
        for folder in trial_folders(root)
    }


def test_study_on_two_nodes_goes_back_to_the_queue_and_completes(slurm: Slurm, tmp_path: Path):
    options = "ablation_rank --nodes 2 --cpus-per-node 1 --time 01:00:00 --submit"
    [job] = slurm.submit(f"{options} -- {STUDY} --out /mnt/outputs")
    root = slurm.shared / "outputs"
    log = root / "slurm" / f"ablation_rank-{job}.log"
    slurm.wait_for(
        f"grep -c 'cluster of 2 nodes: 2 CPUs' /mnt/outputs/slurm/{log.name}", "1\n", 300
    )
    # Slurm sends the same signal to the same process before the time limit.
    slurm.login(f"scancel --batch --signal=TERM {job}")
    slurm.wait_for_state(job, "RUNNING 1")
    slurm.wait_for_state(job, "COMPLETED 1")
    text = log.read_text()
    assert "stopped by SIGTERM" in text and "(exit code 143): back to the queue" in text
    assert "Traceback" not in text and completed(root) == TRIALS
    assert list((root / "reports").rglob("report.md"))

    command = [sys.executable, str(ROOT / "studies" / "ablation_rank.py"), *STUDY.split()]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_raylet_start_wait_time_s": "180"}
    subprocess.run(
        [*command, "--out", str(tmp_path / "alone")], check=True, timeout=300, env=environment
    )
    assert metrics(root) == metrics(tmp_path / "alone")


def test_job_continues_after_its_time_limit_and_ends_when_it_is_cancelled(slurm: Slurm):
    study = "--seeds 1 --epochs 100000 --optimizers sgd --tracking-uri none --out /mnt/outputs"
    options = "compare_accuracy --cpus-per-node 1 --time 00:04:00 --submit"
    [job] = slurm.submit(f"{options} -- {study}")
    slurm.wait_for_state(job, "RUNNING 0")
    slurm.wait_for_state(job, "RUNNING 1")
    slurm.login(f"scancel {job}")
    slurm.wait_for_state(job, "CANCELLED 1")
    log = slurm.shared / "outputs" / "slurm" / f"compare_accuracy-{job}.log"
    assert "stopped by SIGTERM" in log.read_text()
    assert log.read_text().count("back to the queue") == 1


def test_array_trains_shares_of_the_trials_and_a_job_reports_them(slurm: Slurm):
    options = "ablation_rank --array 2 --cpus-per-node 1 --time 00:30:00 --submit"
    array, report = slurm.submit(f"{options} -- {STUDY} --out /mnt/outputs")
    root = slurm.shared / "outputs"
    slurm.wait_for_state(report, "COMPLETED 0")
    logs = [root / "slurm" / f"ablation_rank-{array}_{task}.log" for task in range(2)]
    assert [log.read_text().count(" completed\n") for log in logs] == [TRIALS // 2] * 2
    assert completed(root) == TRIALS and list((root / "reports").rglob("report.md"))


def test_queue_that_refuses_a_job_is_named(slurm: Slurm):
    command = "python -m studies slurm ablation_rank --nodes 3 --time 01:00:00 --submit"
    process = slurm.run(
        "launcher",
        f"{slurm.environment} cd {ROOT} && PRECOND_OUT=/mnt/outputs {command}",
        check=False,
    )
    assert process.returncode == 2 and process.stderr.count("\n") == 1
    assert (
        "error: Slurm refuses the job, and nothing was submitted: sbatch: error:" in process.stderr
    )
    assert not (slurm.shared / "outputs").exists()
