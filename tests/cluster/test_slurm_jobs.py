"""Studies on a real Slurm of two nodes (`slurm_machines.py`): Ray, time limits and job arrays."""

from __future__ import annotations

import os
import subprocess
import sys
import time
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
# Four trials of 15 s or more each, which can be stopped in the middle.
LONG = "--seeds 1 --epochs 150 --levels rank=5 --commit-every 0 --tracking-uri none"
LONG_TRIALS = 4


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


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, float]]]:
    """Return the metrics of the long study in one run on this machine."""
    root = tmp_path_factory.mktemp("alone")
    command = [sys.executable, str(ROOT / "studies" / "ablation_rank.py"), *LONG.split()]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_raylet_start_wait_time_s": "180"}
    subprocess.run([*command, "--out", str(root)], check=True, timeout=600, env=environment)
    return metrics(root)


def wait_for_training(slurm: Slurm, name: str, root: str, epochs: int) -> None:
    """Wait until a trial that has not ended has committed epochs, and all trials have `epochs`."""
    count = (
        f"cat {root}/trials/*/epochs.jsonl | wc -l; "
        f"for trial in {root}/trials/*/; do "
        '[ -s $trial/epochs.jsonl ] && [ ! -e $trial/status.json ] && echo "in flight"; done'
    )
    deadline = time.monotonic() + 300
    while True:
        number, *in_flight = slurm.run(name, count, check=False).stdout.splitlines()
        if int(number) >= epochs and in_flight:
            return
        assert time.monotonic() < deadline, f"{number} epochs\n{slurm.logs()}"
        time.sleep(0.2)


def test_study_on_two_nodes_goes_back_to_the_queue_and_completes(slurm: Slurm, alone):
    options = "ablation_rank --nodes 2 --cpus-per-node 1 --time 01:00:00 --submit"
    [job] = slurm.submit(f"{options} -- {LONG} --out /mnt/outputs")
    root = slurm.shared / "outputs"
    log = root / "slurm" / f"ablation_rank-{job}.log"
    slurm.wait_for(
        f"grep -c 'cluster of 2 nodes: 2 CPUs' /mnt/outputs/slurm/{log.name}", "1\n", 300
    )
    wait_for_training(slurm, "launcher", "/mnt/outputs", epochs=50)
    # Slurm sends the same signal to the same process before the time limit.
    slurm.login(f"scancel --batch --signal=TERM {job}")
    slurm.wait_for_state(job, "RUNNING 1")
    assert completed(root) < LONG_TRIALS
    slurm.wait_for_state(job, "COMPLETED 1")
    text = log.read_text()
    assert "stopped by SIGTERM" in text and "(exit code 143): back to the queue" in text
    assert "Traceback" not in text and completed(root) == LONG_TRIALS
    assert list((root / "reports").rglob("report.md")) and metrics(root) == alone


def test_job_goes_back_to_the_queue_when_a_node_is_lost(slurm: Slurm, alone):
    options = "ablation_rank --nodes 2 --cpus-per-node 1 --time 01:00:00 --submit"
    [job] = slurm.submit(f"{options} -- {LONG} --out /mnt/outputs")
    wait_for_training(slurm, "launcher", "/mnt/outputs", epochs=50)
    slurm.kill("machine2")
    slurm.wait_for_state(job, "PENDING 1")  # Slurm has noticed the loss
    slurm.restart("machine2")
    slurm.wait_for_state(job, "COMPLETED 1")
    root = slurm.shared / "outputs"
    assert completed(root) == LONG_TRIALS and metrics(root) == alone


def test_study_moves_from_a_machine_to_slurm_and_to_another_machine(
    slurm: Slurm, tmp_path: Path, alone
):
    python = f"{slurm.environment} cd {ROOT} && python"

    def move(source: tuple[str, str], target: tuple[str, str]) -> None:
        """Pack a folder of a machine, and unpack it on another machine."""
        file = f"/mnt/{source[1].strip('/').replace('/', '-')}.tar"
        slurm.run(source[0], f"{python} -m studies pack {source[1]} {file}")
        slurm.run(target[0], f"{python} -m studies unpack {file} --into {target[1]}")

    # The study begins on the launcher and is stopped.
    study = f"studies/ablation_rank.py {LONG} --out"
    driver = slurm.begin("launcher", f"{python} {study} /root/a", tmp_path / "a.log")
    wait_for_training(slurm, "launcher", "/root/a", epochs=50)
    slurm.run("launcher", "pkill -TERM -f '^python studies/ablation_rank.py'")
    assert driver.wait(120) == 143, (tmp_path / "a.log").read_text()
    move(("launcher", "/root/a"), ("launcher", "/mnt/outputs"))
    epochs = sum(map(len, metrics(slurm.shared / "outputs").values()))
    # It continues in a job on Slurm, which is cancelled.
    options = "ablation_rank --nodes 2 --cpus-per-node 1 --time 01:00:00 --submit"
    [job] = slurm.submit(f"{options} -- {LONG} --out /mnt/outputs")
    wait_for_training(slurm, "launcher", "/mnt/outputs", epochs=epochs + 100)
    slurm.login(f"scancel {job}")
    slurm.wait_for_state(job, "CANCELLED 0")
    later = sum(map(len, metrics(slurm.shared / "outputs").values()))
    assert epochs < later < 150 * LONG_TRIALS
    # It completes on another machine.
    move(("launcher", "/mnt/outputs"), ("machine1", "/root/b"))
    slurm.run("machine1", f"{python} {study} /root/b")
    move(("machine1", "/root/b"), ("machine1", "/mnt/b"))
    assert completed(slurm.shared / "b") == LONG_TRIALS and metrics(slurm.shared / "b") == alone


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


def test_folder_that_the_nodes_do_not_share_is_refused(slurm: Slurm):
    command = "python -m studies slurm ablation_rank --time 01:00:00 --submit -- --out /tmp/outputs"
    words = f"{slurm.environment} cd {ROOT} && {command}"
    process = slurm.run("launcher", words, check=False)
    assert process.returncode == 2 and process.stderr.count("\n") == 1
    assert "error: --out = /tmp/outputs: must be a folder that all nodes share" in process.stderr
    assert slurm.login("squeue --noheader") == "" and "outputs" not in slurm.login("ls /tmp")


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
