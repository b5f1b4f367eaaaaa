"""`studies.run` and `studies.load`: the results of a study in Python. No trial is trained."""

from __future__ import annotations

import builtins
import os
import re
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import folders
import numpy as np
import pandas as pd
import pytest

import studies
from precond import HyperparameterError
from studies import Arm, Better, CurveFigure, Study, ablation_rank, activation_norms, compare_cost
from studies.harness.cluster import execute
from studies.harness.command import arguments, cli, session
from studies.harness.command.options import parse
from studies.harness.design.arms import Trial
from studies.harness.design.ending import BUDGET, ENVIRONMENT, Stopped
from trainables.store import FAILED, StoreError

STUDY = Study(
    name="two_optimizers",
    title="NysAct and SGD",
    claims=[Better("nysact-s", than="sgd")],
    arms=[Arm(optimizer="nysact-s"), Arm(optimizer="sgd")],
    figure=CurveFigure(),
    workload="digits/cnn",
    seeds=2,
)
Train = Callable[..., str]


def writer(ending: str = "done", limit: int | None = None, **last: Any) -> Train:
    """Return a function in place of `cluster.execute.train`, which writes the folders of trials.

    Args:
        ending: The value that the function returns.
        limit: The number of trials to write; all if None.
        **last: The status of the last trial, and its details.
    """

    def train(trials: Sequence[Trial], options: Any, generation: int, *_: Any) -> str:
        for trial in trials[:limit]:
            details = last if last and trial is trials[-1] else {}
            folders.write_trial(options.root, trial, 2, **details)
        return ending

    return train


def run(out: Path, **options: Any) -> studies.Result:
    return studies.run(STUDY, out=out, tracking_uri="none", **options)


def files(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in root.rglob("*")}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder with the results of the study for the seeds 0 and 1."""
    folder = tmp_path_factory.mktemp("outputs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execute, "train", writer())
        studies.run(STUDY, out=str(folder), tracking_uri="none")
    return folder


@pytest.fixture(scope="module")
def result(root: Path) -> studies.Result:
    loaded = studies.load(STUDY, out=str(root))
    assert isinstance(loaded, studies.Result)
    return loaded


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let reports cost nothing."""
    monkeypatch.setattr("studies.harness.command.reports.Reports.write", lambda self: False)


# ---------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"seeds": 5}, {"seeds": "5"}),
        ({"seeds": [3]}, {"seeds": "3,"}),
        ({"seeds": np.arange(2, 4)}, {"seeds": "2,3"}),
        ({"seeds": range(7, 9)}, {"seeds": "7,8"}),
        ({"workload": ["digits/cnn", "digits/mlp"]}, {"workload": "digits/cnn,digits/mlp"}),
        ({"optimizers": "sgd", "epochs": np.int64(3)}, {"optimizers": "sgd", "epochs": "3"}),
        ({"time_budget": 90.0, "max_concurrent": 2}, {"time_budget": "90s", "max_concurrent": "2"}),
        ({"retry": ["oom", "failed"]}, {"retry": ("oom", "failed")}),
        ({"retry": "oom", "smoke": True}, {"retry": ("oom",), "smoke": True}),
        ({"settings": {"tcov": np.int64(3)}}, {"settings": ("cov_interval=3",)}),
        ({"only": {"rank": np.array([5, 10])}}, {"only": ("rank=5,10",)}),
        ({"levels": {"rank": 5, "shift": None}}, {"levels": ("rank=5", "shift=none")}),
    ],
)
def test_arguments_give_the_options_of_the_command_line(given: dict, line: dict):
    options, errors = arguments.options(ablation_rank.STUDY, given)
    expected, _ = parse({"only": (), "levels": (), "settings": (), **line})
    assert errors == [] and options == expected


def test_a_text_among_the_settings_stays_a_text():
    options, _ = arguments.options(STUDY, {"settings": {"note": "1"}, "levels": {"rank": ["a,b"]}})
    assert options.settings == {"note": "1"} and options.levels == {"rank": ["a,b"]}


def test_all_invalid_arguments_are_reported_at_once_and_nothing_is_written(tmp_path: Path):
    invalid = {
        "seeds": 0,
        "epochs": 1.5,
        "max_concurrent": -1,
        "smoke": "yes",
        "settings": [1],
        "optimizers": ["sgdd"],
        "seed": 3,
        "tracking_uri": "http://me:secret@host",
    }
    with pytest.raises(HyperparameterError) as caught:
        studies.run(STUDY, out=tmp_path / "out", **invalid)
    lines = str(caught.value).splitlines()
    assert [line.partition(" ")[0].rstrip(":") for line in lines] == [
        *("seed", "smoke", "settings", "seeds", "epochs", "max_concurrent", "tracking_uri"),
        "optimizers",
    ]
    assert "Did you mean" in lines[0] and "Did you mean" in lines[-1]
    assert "--" not in str(caught.value) and "secret" not in str(caught.value)
    assert isinstance(caught.value, ValueError) and not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("artefact", "message"),
    [
        ("ablation_rnk", 'Did you mean "ablation_rank"?'),
        (ablation_rank, "must be a study"),
        (None, "must be a study"),
    ],
)
def test_an_unknown_artefact_is_an_error_with_a_suggestion(artefact: Any, message: str):
    with pytest.raises(HyperparameterError, match=message.replace("?", r"\?")):
        studies.run(artefact, dry_run=True)


def test_an_option_that_the_kind_refuses_is_an_error(tmp_path: Path):
    with pytest.raises(HyperparameterError, match=r"^time_budget: not available for activation"):
        studies.run("activation_norms", out=tmp_path, time_budget="1h")
    with pytest.raises(HyperparameterError, match=r"blocks.*not a valid integer"):
        studies.run(compare_cost.COST, out=tmp_path, blocks="many")


# ---------------------------------------------------------------------- run


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr("studies.harness.command.estimate.estimate", lambda *_: "no estimate")
    planned = run(tmp_path / "out", dry_run=True)
    assert "4 trials (2 arms x 2 seeds): 0 done, 4 to go" in capsys.readouterr().out
    assert not any(tmp_path.iterdir())
    assert set(planned.frame()["status"]) == {"not run"} and planned.report is None


def test_a_run_changes_neither_the_environment_nor_the_arguments(
    tmp_path: Path, monkeypatch, untrained
):
    def train(trials: Sequence[Trial], options: Any, *_: Any) -> str:
        seen.append((os.environ["PRECOND_DATA"], os.environ.get("RAY_TEST")))
        os.environ["RAY_TEST"] = "token"
        return writer()(trials, options, 0)

    seen: list[tuple[str, str | None]] = []
    monkeypatch.setattr(execute, "train", train)
    monkeypatch.setattr(sys, "argv", ["kernel", "-f", "connection.json"])
    monkeypatch.delenv("PRECOND_DATA", raising=False)
    before = dict(os.environ)
    for seeds in (1, 2):
        run(tmp_path, data_dir=tmp_path / "data", seeds=seeds)
        assert dict(os.environ) == before and sys.argv[0] == "kernel"
    # Ray reads some of its variables only once in a process, so the next run needs them again.
    data = str(tmp_path / "data")
    assert seen == [(data, None), (data, "token")]


def test_failed_trials_are_results_and_raise_no_error(tmp_path: Path, monkeypatch, untrained):
    monkeypatch.setattr(execute, "train", writer(status=FAILED, reason="ValueError: no"))
    statuses = run(tmp_path).frame()["status"]
    assert sorted(statuses) == ["completed", "completed", "completed", "failed"]


def test_an_interrupt_raises_after_the_report_and_says_how_to_resume(
    tmp_path: Path, monkeypatch, capsys
):
    monkeypatch.setattr(execute, "train", writer("SIGINT", limit=2))
    with pytest.raises(KeyboardInterrupt, match="call run again with the same arguments"):
        run(tmp_path)
    assert (tmp_path / "reports/two_optimizers/digits-cnn/report.html").exists()
    assert "python" not in "".join(capsys.readouterr())
    monkeypatch.setattr(execute, "train", writer())
    assert set(run(tmp_path).frame()["status"]) == {"completed"}


def test_a_keyboard_interrupt_outside_the_training_says_how_to_resume(
    tmp_path: Path, monkeypatch, untrained
):
    def interrupted(*_: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(execute, "train", interrupted)
    with pytest.raises(KeyboardInterrupt, match="all committed results are kept"):
        run(tmp_path)


@pytest.mark.parametrize(
    ("train", "code", "reason"),
    [
        (writer("budget", limit=1), BUDGET, "the time budget is used up; all committed"),
        (None, ENVIRONMENT, "the Ray cluster was lost; all committed"),
    ],
)
def test_an_early_end_raises_stopped(
    tmp_path: Path, monkeypatch, untrained, train: Train | None, code: int, reason: str
):
    def lost(*_: Any) -> str:
        raise StoreError("the Ray cluster was lost")

    monkeypatch.setattr(execute, "train", train or lost)
    with pytest.raises(Stopped, match=f"^{reason} results are kept. To resume, call") as caught:
        run(tmp_path)
    assert caught.value.code == code


def test_sigterm_is_passed_on_after_the_report(tmp_path: Path, monkeypatch, untrained):
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        monkeypatch.setattr(execute, "train", writer("SIGTERM", limit=1))
        with pytest.raises(Stopped):
            run(tmp_path)
        assert received == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_folder_in_use_is_an_error_in_words_for_python(tmp_path: Path, monkeypatch, untrained):
    from studies.harness.command import lock

    with (
        lock.exclusive(tmp_path),
        pytest.raises(StoreError, match="choose another folder with out"),
    ):
        run(tmp_path)


def test_a_thread_can_run_a_study_but_not_two_at_the_same_time(
    tmp_path: Path, monkeypatch, untrained
):
    started, ended = threading.Event(), threading.Event()
    results: list[studies.Result] = []

    def train(trials: Sequence[Trial], options: Any, *_: Any) -> str:
        started.set()
        assert ended.wait(60)
        return writer()(trials, options, 0)

    monkeypatch.setattr(execute, "train", train)
    thread = threading.Thread(target=lambda: results.append(run(tmp_path)))
    thread.start()
    assert started.wait(60)
    with pytest.raises(StoreError, match="another run is in progress"):
        run(tmp_path / "other")
    ended.set()
    thread.join(60)
    assert set(results[0].frame()["status"]) == {"completed"}


# ---------------------------------------------------------------------- results


def test_a_frame_has_each_hyperparameter_and_setting(result: studies.Result, root: Path):
    trials, epochs = result.frame(), result.frame(per="epoch")
    for frame, rows in ((trials, 4), (epochs, 8)):
        assert len(frame) == rows
        assert {"lr", "rank", "damping", "batch_size", "epochs", "schedule"} <= {*frame.columns}
        ranks = dict(zip(frame["optimizer"], frame["rank"], strict=True))
        assert ranks["nysact-s"] == 10 and ranks["sgd"] is pd.NA
        assert str(frame["rank"].dtype) == "Int64"
    table = pd.read_csv(root / "reports/two_optimizers/digits-cnn/trials.csv")
    assert not {"lr", "rank", "batch_size"} & {*table.columns}


def test_a_frame_with_other_rows_is_an_error(result: studies.Result, tmp_path: Path):
    with pytest.raises(ValueError, match='per = "seed": must be "trial" or "epoch"'):
        result.frame(per="seed")  # type: ignore[arg-type]
    norms = studies.load(activation_norms.PROBE, out=tmp_path)
    with pytest.raises(HyperparameterError, match="is a probe and has no rows for epochs"):
        norms.frame(per="epoch")


def test_a_result_has_the_analysis_the_decisions_and_the_figures(
    result: studies.Result, monkeypatch: pytest.MonkeyPatch
):
    assert result.evidence is not None and result.evidence is result.evidence
    [claim] = result.claims.to_dict("records")
    assert claim["verdict"] == result.evidence.claims[0].verdict
    assert claim["workload"] == "digits/cnn"
    assert [*result.figures] == ["curves"]
    picture = result.figures["curves"]
    assert picture._repr_png_() == Path(picture).read_bytes()
    assert result.report is not None and result.report.name == "report.html"


def test_a_result_is_displayed_without_scripts_and_files(result: studies.Result):
    html = result._repr_html_()
    assert "<strong>" in html and "nysact-s is better than sgd" in html
    assert 'src="data:image/png;base64,' in html and ">nysact-s</td>" in html
    assert "<script" not in html and "http" not in html
    assert "4 trials (2 arms x 2 seeds): 4 done, 0 to go" in repr(result)


def test_show_prints_the_results_outside_a_notebook(result: studies.Result, capsys):
    result.show()
    output = capsys.readouterr().out
    assert "nysact-s is better than sgd" in output and "report.html" in output


def test_kinds_without_an_analysis_have_sensible_results(tmp_path: Path):
    for name in ("activation_norms", "compare_cost", "tune_optimizers"):
        loaded = studies.load(name, out=str(tmp_path))
        assert isinstance(loaded, studies.Result)
        assert loaded.evidence is None and loaded.figures == {} and len(loaded.claims) == 0
        assert loaded.frame().empty or set(loaded.frame()["status"]) == {"not run"}
        assert name in repr(loaded) and "<p>" in loaded._repr_html_()
    assert not any(tmp_path.iterdir())


def test_a_result_of_several_workloads_is_selected_by_its_workload(tmp_path: Path):
    both = studies.load(STUDY, out=tmp_path, workload=["digits/cnn", "digits/mlp"])
    assert isinstance(both, studies.Result)
    with pytest.raises(ValueError, match=r'use result\["digits/cnn"\].evidence'):
        _ = both.evidence
    assert both["digits/mlp"].workloads == ["digits/mlp"]
    assert set(both.frame()["workload"]) == {"digits/cnn", "digits/mlp"}
    with pytest.raises(KeyError, match="the workloads are digits/cnn, digits/mlp"):
        both["digits"]


# ---------------------------------------------------------------------- load


def test_load_reads_a_study_by_name_or_literal_and_writes_nothing(root: Path, monkeypatch):
    monkeypatch.setattr(session, "artefacts", lambda: {STUDY.name: STUDY})
    before = files(root)
    for what in (STUDY, STUDY.name):
        loaded = studies.load(what, out=str(root))
        assert list(loaded.frame()["status"]) == ["completed"] * 4
        loaded._repr_html_()
    assert list(studies.load(STUDY, out=root, optimizers="sgd").frame()["optimizer"]) == ["sgd"] * 2
    assert len(studies.load(STUDY, out=root, seeds=1).frame()) == 4  # all seeds in the folder
    assert files(root) == before


def test_load_reads_every_trial_of_a_folder(tmp_path: Path):
    """The trials are not those of a study file: their settings are not those of a recipe."""
    trials = folders.planned(seeds=2)
    for trial in trials[:-1]:
        folders.write_trial(tmp_path, trial)
    folders.write_trial(tmp_path, trials[-1], 1, None)
    before = files(tmp_path)
    for what in (tmp_path, str(tmp_path)):
        loaded = studies.load(what)
        assert isinstance(loaded, studies.Folder)
        frame = loaded.frame()
        assert {*frame["trial_key"]} == {trial.config.trial_key for trial in trials}
        assert sorted(frame["arm"].unique()) == sorted(arm.label for arm in folders.ARMS)
        assert set(frame["lr"]) == {0.1} and str(frame["rank"].dtype) == "Int64"
        assert list(frame["status"]).count("in flight") == 1
        assert len(loaded.frame(per="epoch")) == 2 * len(trials) - 1
        assert f"{len(trials)} trials" in repr(loaded) and "<table" in loaded._repr_html_()
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("what", "options", "message"),
    [
        (
            "ablation_rnk",
            {},
            'neither a folder nor the name of a study. Did you mean "ablation_rank"',
        ),
        ("ablation_rnk", {"out": "outputs"}, 'Did you mean "ablation_rank"'),
        ("ablation_rank", {"workload": "digits/cn"}, "^workload"),
        ("empty", {}, "empty contains no trials"),
        (7, {}, "must be a study"),
    ],
)
def test_load_of_an_unknown_name_is_an_error(
    tmp_path: Path, monkeypatch, what: Any, options: dict, message: str
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(HyperparameterError, match=message):
        studies.load(what, **options)


# ---------------------------------------------------------------------- main in a notebook


@pytest.fixture
def interpreter(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """The module `__main__` of an interactive interpreter."""
    module = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    yield module


def test_main_in_an_interpreter_names_the_function_to_call(interpreter, capsys):
    studies.main(STUDY)
    assert capsys.readouterr().out == (
        "main(STUDY) needs a command line: call studies.run(STUDY) instead\n"
    )


def test_main_of_a_file_that_an_interpreter_runs_is_the_command_line(interpreter, monkeypatch):
    interpreter.__file__ = "study.py"
    monkeypatch.setattr(sys, "argv", ["study.py", "--help"])
    monkeypatch.setattr(cli.atexit, "register", lambda _: None)
    with pytest.raises(SystemExit):
        studies.main(STUDY)


def test_main_in_a_kernel_names_the_function_to_call(interpreter, monkeypatch, capsys):
    monkeypatch.delattr(sys, "ps1")
    kernel = types.SimpleNamespace(get_ipython=builtins.object)
    monkeypatch.setitem(sys.modules, "IPython", kernel)
    studies.main(STUDY)
    assert "call studies.run(STUDY)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("what", "options", "message"),
    [
        ("{root}", {"workload": "digits/cnn"}, "workload: only for the results of a study"),
        ("{root}", {"foo": 3}, "foo: only for the results of a study"),
        ("ablation_rank", {"out": "{root}/absent"}, "absent: there is no such folder"),
    ],
)
def test_load_refuses_what_it_cannot_select(
    root: Path, what: str, options: dict[str, Any], message: str
):
    given = {name: str(value).format(root=root) for name, value in options.items()}
    with pytest.raises(HyperparameterError, match=re.escape(message)):
        studies.load(what.format(root=root), **given)


def test_a_factor_without_levels_and_a_value_of_another_type_are_refused(tmp_path: Path):
    with pytest.raises(HyperparameterError) as error:
        run(tmp_path / "new", only={"rank": []}, seeds={1: 2}, epochs=b"3")
    lines = str(error.value).splitlines()
    assert len(lines) == 3 and "rank has no values" in str(error.value)
    assert not (tmp_path / "new").exists()


def test_a_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    options, errors = arguments.options(STUDY, {"out": "~/results"})
    assert (options.out, errors) == (tmp_path / "results", [])
