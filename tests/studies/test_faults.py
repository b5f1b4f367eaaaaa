"""The harness of faults: each scenario passes on the code as it is, and notices when a protection is taken away."""

from __future__ import annotations

import random
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import pytest
import ray
from ray.exceptions import RaySystemError

from studies.harness.cluster import local as local_cluster
from studies.harness.cluster import stopping, tuning
from studies.harness.command import lock
from studies.harness.command.run import ENVIRONMENT, stopped
from tests.faults import files, inputs, sim, toy
from tests.faults.injection import DONE, EIO, ENOSPC, KILL, RAISED, Fault, in_child, operations
from tests.faults.invariants import finished
from trainables import checkpoints, store
from trainables.files import read_lines
from trainables.ray_trainable import PROBLEM, TrialTrainable
from trainables.store import StoreError, TrialStore

Scenario = Callable[[int, random.Random, Path], files.Tries]


def violations(scenario: Scenario, n: int, folder: Path, seed: int = 0) -> list[str]:
    tries = list(scenario(n, random.Random(seed), folder))
    assert tries
    return [line for wrong in tries for line in wrong]


@pytest.mark.parametrize(("scenario", "n"), [(files.corrupt, 100), (files.nth, 5), (sim.sim, 5)])
def test_nothing_is_violated(scenario: Scenario, n: int, tmp_path: Path):
    assert violations(scenario, n, tmp_path) == []


def test_command_lines_are_refused_or_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.argv", ["restored afterwards"])
    monkeypatch.setenv("PRECOND_DATA", "restored afterwards")
    monkeypatch.chdir(tmp_path)
    assert violations(inputs.inputs, 30, tmp_path) == []


def test_a_store_that_does_not_compare_digests_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(checkpoints, "digest", lambda _: "the same for all")
    assert any("manifest.json" in line for line in violations(files.corrupt, 100, tmp_path))


def test_a_store_without_fencing_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(TrialStore, "_check_generation", lambda self: None)
    assert any("not fenced off" in line for line in violations(sim.sim, 10, tmp_path))


def test_a_store_that_writes_in_place_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def in_place(path: Path, content: bytes) -> None:
        with open(path, "wb") as file:
            file.write(content)

    for module in (checkpoints, store):
        monkeypatch.setattr(module, "write_atomically", in_place)
    tries = files.nth(0, random.Random(0), tmp_path)
    assert next((wrong for wrong in tries if wrong), None)


def test_the_nth_operation_fails_and_no_other(tmp_path: Path):
    [config] = toy.configs(1)
    total = operations(lambda: toy.session(tmp_path / "probe", [config]), tmp_path / "probe")
    assert total > 50
    for error, code in ((EIO, RAISED), (ENOSPC, RAISED), (KILL, -9)):
        root = tmp_path / error
        assert (
            in_child(lambda root=root: toy.session(root, [config]), Fault(root, total, error))
            == code
        )
        assert (
            in_child(lambda root=root: toy.session(root, [config]), Fault(root, total + 1, error))
            == DONE
        )


def test_finished_finds_what_is_wrong(tmp_path: Path):
    trials = toy.configs(2)
    expected = {config.trial_key: [{"test/accuracy": 0.5}] * toy.EPOCHS for config in trials}
    folder = TrialStore(tmp_path, trials[0])
    folder.create()
    folder.begin({})
    folder.record(1, {"test/accuracy": 0.25})
    folder.finish("completed")
    (folder.folder / "status.json.tmp").write_text("{")
    wrong = "\n".join(finished(tmp_path, trials, expected))
    assert all(f"{name}:" in wrong for name in ("I1", "I2", "I4", "I6"))


# ---------------------------------------------------------------------- a worker whose folder fails


def worker(epochs: Callable[[], object]) -> TrialTrainable:
    trainable = TrialTrainable.__new__(TrialTrainable)
    trainable.config, trainable._report_every, trainable._pauses = {}, 0.0, [0, 0]
    trainable._leaving = False
    trainable._store = TrialStore("nowhere", toy.configs(1)[0])

    def opened(config: object) -> None:
        trainable._epochs = epochs()  # type: ignore[assignment]

    trainable._open = opened  # type: ignore[method-assign]
    trainable._open({})
    return trainable


def test_a_worker_takes_a_trial_up_again_and_gives_up_after_some_pauses():
    def full():
        raise OSError(28, "No space left on device", "outputs/trials/1")
        yield

    trainable = worker(full)
    assert [trainable.train() for _ in range(3)] == [
        {},
        {},
        {"done": True, PROBLEM: "outputs/trials/1: No space left on device"},
    ]


def test_a_worker_whose_folder_belongs_to_another_gives_up_at_once():
    def fenced():
        raise StoreError("out belongs to generation 2 now")
        yield

    assert worker(fenced).train() == {"done": True, PROBLEM: "out belongs to generation 2 now"}


def test_several_epochs_are_one_step_where_nobody_decides_by_them():
    trainable = worker(lambda: ({"epoch": epoch} for epoch in range(3)))
    assert [trainable.train()["epoch"] for _ in range(3)] == [0, 1, 2]
    trainable = worker(lambda: ({"epoch": epoch} for epoch in range(3)))
    trainable._report_every = 60.0
    assert trainable.train()["epoch"] == 2


def test_a_damaged_line_is_named(tmp_path: Path):
    path = tmp_path / "epochs.jsonl"
    for content in (b'{"epoch": 0}\n{"epo\n{"epoch": 2}\n', b"[1]\n", b"\0\0\n"):
        path.write_bytes(content)
        with pytest.raises(StoreError, match=r"epochs\.jsonl is damaged: move its folder away"):
            read_lines(path)


@pytest.mark.parametrize("stays", [True, False])
def test_a_full_disk_while_a_checkpoint_is_written_is_no_outcome(tmp_path: Path, stays: bool):
    """Torch's archive writer hides the error in its own error, which must not become the status `failed`.

    If the disk stays full, no status can be written. If only the checkpoint is too large, a status can.
    """
    [config] = toy.configs(1)
    writes = 40  # of the session's operations: those of the first commits
    for at in range(5, writes):
        root = tmp_path / str(at)
        fault = Fault(root, at, ENOSPC, stays)
        assert in_child(lambda root=root: toy.session(root, [config]), fault) == RAISED, at
        assert TrialStore(root, config).status() is None, at


# ---------------------------------------------------------------------- the driver


def test_a_cluster_without_a_living_node_stops_the_driver(monkeypatch: pytest.MonkeyPatch):
    alive = [{"Alive": True}]
    monkeypatch.setattr(stopping.ray, "nodes", lambda: alive)
    monkeypatch.setattr(stopping, "TICK_SECONDS", 0.02)
    monkeypatch.setattr(stopping, "PROBE_SECONDS", 0.01)
    monkeypatch.setattr(stopping, "LOST_SECONDS", 0.5)
    stop = stopping.Stop(Mock())
    with stop.watching():
        time.sleep(0.7)
        assert not stop.stop_all()
        alive[0]["Alive"] = False
        time.sleep(0.9)
        assert stop.stop_all() and stop.problem == stopping.LOST


def test_a_signal_waits_for_the_end_of_rays_shutdown(monkeypatch: pytest.MonkeyPatch):
    """Ray would end the process with exit code 1 and no line if its shutdown were interrupted."""
    done = []

    def shutdown():
        signal.raise_signal(signal.SIGINT)
        done.append("shut down")

    monkeypatch.setattr(stopping.ray, "shutdown", shutdown)
    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt), stopping.Stop(lambda reason: 4).watching():
        pass
    assert done == ["shut down"]
    for thread in set(threading.enumerate()) - before:
        thread.join(2 * stopping.PROBE_SECONDS)  # a count that went on would end the process
        assert not thread.is_alive()


def test_a_driver_that_waits_for_a_dead_cluster_ends_itself(capfd: pytest.CaptureFixture[str]):
    """A dead head does not answer, and the main thread may be in a call to it."""

    def work() -> None:
        stopping.ray.nodes = threading.Event().wait
        stopping.TICK_SECONDS = stopping.PROBE_SECONDS = 0.02
        stopping.LOST_SECONDS = stopping.GRACE_SECONDS = 0.1
        with stopping.Stop(lambda reason: stopped(ENVIRONMENT, f"error: {reason}")).watching():
            time.sleep(30)

    assert in_child(work) == 4
    assert re.match(
        r"error: Ray's head or its last node died; nothing committed was lost\. "
        r"The same command resumes it:\n  python ",
        capfd.readouterr().err,
    )


def test_ray_is_not_asked_for_nodes_while_it_shuts_down(monkeypatch: pytest.MonkeyPatch):
    """It would end the process with exit code 1, and the study without its report."""
    asked, asking, found = threading.Event(), [], []

    def nodes() -> list[dict[str, bool]]:
        asking.append(True)
        asked.set()
        time.sleep(0.3)
        asking.pop()
        return [{"Alive": True}]

    def shutdown() -> None:
        for _ in range(10):
            found.extend(asking)
            time.sleep(0.02)

    monkeypatch.setattr(stopping.ray, "nodes", nodes)
    monkeypatch.setattr(stopping.ray, "shutdown", shutdown)
    monkeypatch.setattr(stopping, "PROBE_SECONDS", 0.01)
    with stopping.Stop(Mock()).watching():
        assert asked.wait(10)
    assert found == []


@pytest.mark.parametrize(
    "error", [RaySystemError("no GCS.\nat all"), RuntimeError("System error: no GCS.\nat all")]
)
def test_a_ray_that_does_not_start_is_one_line(error: Exception, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", "restored afterwards")
    monkeypatch.setattr(local_cluster.ray, "init", Mock(side_effect=error))
    with pytest.raises(StoreError, match=r"^Ray did not start here: System error: no GCS$"):
        local_cluster.start(1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_wait_until_ray_has_started(number: int):
    def ours(*_: object) -> None:
        raise InterruptedError

    handlers = {name: signal.signal(name, ours) for name in (signal.SIGINT, signal.SIGTERM)}
    started = False
    try:
        with pytest.raises(InterruptedError), stopping.signals_wait():
            ray._private.utils.set_sigterm_handler(
                lambda number, _: sys.exit(number)
            )  # as `ray.init` does
            signal.raise_signal(number)
            signal.raise_signal(number)
            signal.alarm(30)  # as abseil's handler does
            started = True
        assert started and signal.getsignal(signal.SIGTERM) is ours and signal.alarm(0) == 0
        with stopping.signals_wait():
            pass  # and nothing comes of nothing
    finally:
        for name, handler in handlers.items():
            signal.signal(name, handler)


class Fake(SimpleNamespace):
    __hash__ = object.__hash__


def test_a_free_worker_takes_no_trial_whose_own_worker_is_starting():
    done, starting, waiting, later = trials = [
        Fake(status=status) for status in ("TERMINATED", "PENDING", "PENDING", "PENDING")
    ]
    controller = SimpleNamespace(
        get_trials=lambda: trials,
        _trial_to_actor={done: 1, starting: 1, waiting: 0},
        _actor_manager=SimpleNamespace(is_actor_started=bool),
    )
    scheduler, wrapped = tuning.Fifo(), cast(Any, SimpleNamespace(_tune_controller=controller))
    assert scheduler.choose_trial_to_run(wrapped) is waiting
    waiting.status = "RUNNING"
    assert scheduler.choose_trial_to_run(wrapped) is later
    later.status = "RUNNING"
    assert scheduler.choose_trial_to_run(wrapped) is None


def test_the_lock_file_has_one_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A shorter holder over a longer one leaves no rest, and no moment without a generation."""
    for host in ("a-host-with-a-long-name", "b"):
        monkeypatch.setattr(lock.socket, "gethostname", lambda host=host: host)
        with lock.exclusive(tmp_path) as generation:
            assert store.lock_generation(tmp_path) == generation
    assert generation == 2 and (tmp_path / ".lock").stat().st_size == lock.LENGTH
