"""The fault scenarios of tests/faults, and the reactions of workers and drivers to faults.

The scenarios must find no violation in the current code, and must find violations if a protection
against faults is removed.
"""

from __future__ import annotations

import gc
import random
import re
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import Mock

import pytest
import ray
from ray.exceptions import RaySystemError

from studies.harness.cluster import execute, stopping, tuning
from studies.harness.cluster import local as local_cluster
from studies.harness.command import lock
from studies.harness.command.run import ENVIRONMENT, stopped
from studies.harness.design.options import Options
from tests.faults import files, inputs, sim, toy
from tests.faults.injection import DONE, EIO, ENOSPC, KILL, RAISED, Fault, in_child, operations
from tests.faults.invariants import finished
from trainables import checkpoints, store
from trainables.files import read_lines
from trainables.plugins import PluginError
from trainables.ray_trainable import PROBLEM, TrialTrainable
from trainables.store import StoreError, TrialStore

Scenario = Callable[[int, random.Random, Path], files.Tries]


def violations(scenario: Scenario, n: int, folder: Path, seed: int = 0) -> list[str]:
    tries = list(scenario(n, random.Random(seed), folder))
    assert tries
    return [line for lines in tries for line in lines]


@pytest.mark.parametrize(("scenario", "n"), [(files.corrupt, 100), (files.nth, 5), (sim.sim, 5)])
def test_fault_scenarios_find_no_violation(scenario: Scenario, n: int, tmp_path: Path):
    assert violations(scenario, n, tmp_path) == []


def test_random_command_lines_are_refused_or_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # The commands change both; monkeypatch restores them after the test.
    monkeypatch.setattr("sys.argv", ["before the commands"])
    monkeypatch.setenv("PRECOND_DATA", "before the commands")
    monkeypatch.chdir(tmp_path)
    assert violations(inputs.inputs, 30, tmp_path) == []


def test_scenario_detects_a_store_without_digests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checkpoints, "digest", lambda _: "the same for all")
    assert any("manifest.json" in line for line in violations(files.corrupt, 100, tmp_path))


def test_scenario_detects_a_store_without_fencing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(TrialStore, "_check_generation", lambda self: None)
    assert any("not fenced off" in line for line in violations(sim.sim, 10, tmp_path))


def test_scenario_detects_a_store_without_atomic_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def in_place(path: Path, content: bytes) -> None:
        with open(path, "wb") as file:
            file.write(content)

    for module in (checkpoints, store):
        monkeypatch.setattr(module, "write_atomically", in_place)
    tries = files.nth(0, random.Random(0), tmp_path)
    assert any(tries)


def test_fault_hits_only_the_nth_operation(tmp_path: Path):
    [config] = toy.configs(1)
    total = operations(lambda: toy.session(tmp_path / "probe", [config]), tmp_path / "probe")
    assert total > 50
    for error, code in ((EIO, RAISED), (ENOSPC, RAISED), (KILL, -9)):
        root = tmp_path / error
        session = partial(toy.session, root, [config])
        assert in_child(session, Fault(root, total, error)) == code
        assert in_child(session, Fault(root, total + 1, error)) == DONE


def test_finished_reports_each_violated_invariant(tmp_path: Path):
    trials = toy.configs(2)
    expected = {config.trial_key: [{"test/accuracy": 0.5}] * toy.EPOCHS for config in trials}
    folder = TrialStore(tmp_path, trials[0])
    folder.create()
    folder.begin({})
    folder.record(1, {"test/accuracy": 0.25})
    folder.finish("completed")
    (folder.folder / "status.json.tmp").write_text("{")
    violated = "\n".join(finished(tmp_path, trials, expected))
    assert all(f"{name}:" in violated for name in ("I1", "I2", "I4", "I6"))


# ---------------------------------------------------------------------- workers


def worker(epochs: Callable[[], object]) -> TrialTrainable:
    """Return a worker without Ray that receives its epochs from the generator `epochs()`."""
    trainable = TrialTrainable.__new__(TrialTrainable)
    trainable.config, trainable._report_every, trainable._pauses = {}, 0.0, [0, 0]
    trainable._leaving = False
    trainable._store = TrialStore("nowhere", toy.configs(1)[0])

    def open_trial(config: object) -> None:
        trainable._epochs = epochs()  # type: ignore[assignment]

    trainable._open = open_trial  # type: ignore[method-assign]
    trainable._open({})
    return trainable


def test_a_plugin_that_cannot_be_loaded_on_a_worker_ends_the_command():
    def unusable():
        raise PluginError("plugin x.py: No such file or directory")
        yield  # makes this function a generator

    result = worker(unusable).train()
    assert result == {"done": True, PROBLEM: "plugin x.py: No such file or directory"}


def test_worker_retries_after_a_full_disk_and_then_reports_the_problem():
    def full():
        raise OSError(28, "No space left on device", "outputs/trials/1")
        yield  # makes this function a generator

    trainable = worker(full)
    assert [trainable.train() for _ in range(3)] == [
        {},
        {},
        {"done": True, PROBLEM: "outputs/trials/1: No space left on device"},
    ]


def test_fenced_worker_reports_the_problem_at_once():
    def fenced():
        raise StoreError("out belongs to generation 2 now")
        yield  # makes this function a generator

    assert worker(fenced).train() == {"done": True, PROBLEM: "out belongs to generation 2 now"}


def test_worker_with_a_report_interval_reports_only_the_last_of_several_epochs():
    trainable = worker(lambda: ({"epoch": epoch} for epoch in range(3)))
    assert [trainable.train()["epoch"] for _ in range(3)] == [0, 1, 2]
    trainable = worker(lambda: ({"epoch": epoch} for epoch in range(3)))
    trainable._report_every = 60.0
    assert trainable.train()["epoch"] == 2


def test_error_names_the_damaged_file(tmp_path: Path):
    path = tmp_path / "epochs.jsonl"
    for content in (b'{"epoch": 0}\n{"epo\n{"epoch": 2}\n', b"[1]\n", b"\0\0\n"):
        path.write_bytes(content)
        with pytest.raises(StoreError, match=r"epochs\.jsonl is damaged: move its folder away"):
            read_lines(path)


@pytest.mark.parametrize("stays", [True, False])
def test_full_disk_during_a_checkpoint_writes_no_status(tmp_path: Path, stays: bool):
    """`torch.save` does not raise an OSError on a full disk; the trial must not count as failed.

    If only one operation fails (`stays` is False), the store could write a status, but must not.
    """
    [config] = toy.configs(1)
    for number in range(5, 40):  # the numbers of the operations of the first commits
        root = tmp_path / str(number)
        fault = Fault(root, number, ENOSPC, stays)
        assert in_child(partial(toy.session, root, [config]), fault) == RAISED, number
        assert TrialStore(root, config).status() is None, number


# ---------------------------------------------------------------------- the driver


def interrupt(*_: object) -> None:
    raise InterruptedError


@pytest.fixture
def signal_handlers() -> Iterator[None]:
    """Handle SIGINT and SIGTERM by `interrupt`.

    A process that a shell starts in the background ignores SIGINT, so tests must not rely on
    Python's handler, which raises `KeyboardInterrupt`.
    """
    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = {number: signal.signal(number, interrupt) for number in numbers}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_driver_stops_without_a_live_node(monkeypatch: pytest.MonkeyPatch):
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


@pytest.mark.usefixtures("signal_handlers")
def test_signal_is_deferred_until_ray_has_shut_down(monkeypatch: pytest.MonkeyPatch):
    """A signal during Ray's shutdown would end the process with exit code 1 and no message."""
    calls = []

    def shutdown():
        signal.raise_signal(signal.SIGINT)
        calls.append("shut down")

    monkeypatch.setattr(stopping.ray, "shutdown", shutdown)
    before = set(threading.enumerate())
    with pytest.raises(InterruptedError), stopping.Stop(lambda reason: 4).watching():
        pass
    assert calls == ["shut down"]
    for thread in set(threading.enumerate()) - before:
        # The thread that counts the time without a live node would otherwise end the process.
        thread.join(2 * stopping.PROBE_SECONDS)
        assert not thread.is_alive()


@pytest.mark.usefixtures("signal_handlers")
def test_sigterm_during_rays_shutdown_is_not_reported_as_sigint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """While trials run, a SIGTERM is forwarded as a SIGINT; Ray's shutdown comes after that."""
    monkeypatch.setattr(execute, "_start", lambda options, trials: None)
    monkeypatch.setattr(stopping.ray, "shutdown", lambda: signal.raise_signal(signal.SIGTERM))
    interrupted = Mock(side_effect=AssertionError)
    signal.signal(signal.SIGINT, interrupted)
    options = Options(out=tmp_path)
    with pytest.raises(InterruptedError), execute.session([], options, 1, Mock()) as running:
        pass
    assert not running.signals and not interrupted.called
    assert signal.getsignal(signal.SIGTERM) is interrupt


def test_driver_blocked_by_a_lost_cluster_exits_with_code_4(capfd: pytest.CaptureFixture[str]):
    """A lost head node does not answer, so a call to it may block the main thread for ever."""

    def work() -> None:
        stopping.ray.nodes = threading.Event().wait
        stopping.TICK_SECONDS = stopping.PROBE_SECONDS = 0.02
        stopping.LOST_SECONDS = stopping.GRACE_SECONDS = 0.1
        with stopping.Stop(lambda reason: stopped(ENVIRONMENT, f"error: {reason}")).watching():
            time.sleep(30)

    assert in_child(work) == 4
    assert re.match(
        r"error: the Ray cluster was lost: no node was alive for 40 s; all committed results are kept\. "
        r"To resume, run the same command:\n  python ",
        capfd.readouterr().err,
    )


def test_nodes_are_not_requested_during_rays_shutdown(monkeypatch: pytest.MonkeyPatch):
    """A request during the shutdown would end the process with exit code 1 and without a report."""
    started, active, overlaps = threading.Event(), [], []

    def nodes() -> list[dict[str, bool]]:
        active.append("request")
        started.set()
        time.sleep(0.3)
        active.pop()
        return [{"Alive": True}]

    def shutdown() -> None:
        for _ in range(10):
            overlaps.extend(active)
            time.sleep(0.02)

    monkeypatch.setattr(stopping.ray, "nodes", nodes)
    monkeypatch.setattr(stopping.ray, "shutdown", shutdown)
    monkeypatch.setattr(stopping, "PROBE_SECONDS", 0.01)
    with stopping.Stop(Mock()).watching():
        assert started.wait(10)
    assert overlaps == []


def test_no_garbage_is_collected_during_rays_shutdown(monkeypatch: pytest.MonkeyPatch):
    """If a thread deletes an `ObjectRef` during the shutdown, Ray ends the process with code 1."""

    class Cycle:
        def __init__(self):
            self.cycle = self

    deleted: list[str] = []

    def shutdown() -> None:
        assert deleted == ["before"]
        weakref.finalize(Cycle(), deleted.append, "during")
        thread = threading.Thread(target=lambda: [Cycle() for _ in range(5000)])
        thread.start()
        thread.join()
        assert deleted == ["before"]

    monkeypatch.setattr(stopping.ray, "shutdown", shutdown)
    with stopping.Stop(Mock()).watching():
        weakref.finalize(Cycle(), deleted.append, "before")
    assert gc.isenabled()


@pytest.mark.parametrize(
    "error", [RaySystemError("no GCS.\nat all"), RuntimeError("System error: no GCS.\nat all")]
)
def test_failed_start_of_ray_is_reported_in_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch
):
    # `start` changes this variable; monkeypatch restores it after the test.
    monkeypatch.setenv("RAY_AUTH_TOKEN", "before the start")
    monkeypatch.setattr(local_cluster.ray, "init", Mock(side_effect=error))
    with pytest.raises(
        StoreError, match=r"^Ray did not start on this machine: System error: no GCS$"
    ):
        local_cluster.start(1)


@pytest.mark.usefixtures("signal_handlers")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_deferred_until_ray_has_started(number: int):
    started = False
    with pytest.raises(InterruptedError), stopping.defer_signals():
        # `ray.init` replaces the handler like this.
        ray._private.utils.set_sigterm_handler(lambda number, _: sys.exit(number))
        signal.raise_signal(number)
        signal.raise_signal(number)
        signal.alarm(30)  # as the signal handler of Ray's C++ library abseil does
        started = True
    assert started and signal.getsignal(signal.SIGTERM) is interrupt and signal.alarm(0) == 0
    with stopping.defer_signals():
        pass  # without a signal, nothing is raised


def test_a_thread_starts_and_stops_ray_without_signal_handlers():
    """`signal.signal` raises ValueError outside the main thread."""
    errors: list[Exception] = []

    def use() -> None:
        try:
            with stopping.defer_signals(), execute._signals():
                pass
        except ValueError as error:
            errors.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join(60)
    assert errors == []


class FakeTrial(SimpleNamespace):
    __hash__ = object.__hash__


def test_scheduler_skips_a_trial_whose_worker_is_starting():
    done, starting, waiting, later = trials = [
        FakeTrial(status=status) for status in ("TERMINATED", "PENDING", "PENDING", "PENDING")
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


def test_lock_file_has_a_fixed_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A short host name overwrites a long host name completely, so that the file stays readable."""
    for host in ("a-host-with-a-long-name", "b"):
        monkeypatch.setattr(lock.socket, "gethostname", lambda host=host: host)
        with lock.exclusive(tmp_path) as generation:
            assert store.lock_generation(tmp_path) == generation
    assert generation == 2 and (tmp_path / ".lock").stat().st_size == lock.LENGTH


def test_ctrl_c_after_training_is_not_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Tune leaves its handler of SIGINT installed when it ends."""

    def fit() -> Any:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return SimpleNamespace(num_errors=0)

    monkeypatch.setattr(tuning.tune, "Tuner", lambda *_, **__: SimpleNamespace(fit=fit))
    monkeypatch.setattr(tuning.tune, "RunConfig", Mock())
    session = tuning.Session(Options(out=tmp_path), {}, stopping.Stop(Mock()), [], started=0.0)
    before = signal.getsignal(signal.SIGINT)
    try:
        assert session.fit(Mock(), {}) == 0
        assert signal.getsignal(signal.SIGINT) is before
    finally:
        signal.signal(signal.SIGINT, before)
