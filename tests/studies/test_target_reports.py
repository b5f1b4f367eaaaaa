"""Reports of the time to a target, from trial folders and cost files with known values."""

from __future__ import annotations

import math
import re
import shlex
from dataclasses import replace

import folders
import pandas as pd
import pytest
from folders import write_cost_result, write_trial
from matplotlib.axes import Axes

from studies.harness.design.arms import Arm, Trial
from studies.harness.evidence import costs, target_results, targets
from studies.harness.evidence.metrics import EPOCHS_TO_TARGET, SECONDS_TO_TARGET
from studies.harness.kinds.study.figures import LevelFigure
from studies.harness.kinds.study.study import Study
from studies.harness.kinds.target import report
from studies.harness.kinds.target.figure import TargetFigure
from studies.harness.report.figures import targets as figures
from studies.time_to_target import STUDY as NYSACT
from studies.time_to_target_steve import STUDY as STEVE
from trainables.cost import __main__ as benchmark
from trainables.cost.files import file_name, result_name
from trainables.cost.intervals import Median
from trainables.store import DIVERGED
from trainables.workloads import resolve

EPOCHS = 10
STUDY = Study(
    workload="digits/cnn",
    name="to_target",
    title="Time to a target",
    paper="P",
    table="Table 5",
    arms=[Arm(optimizer="foof"), Arm(optimizer="sgd"), Arm(optimizer="kfac"), Arm(optimizer="eva")],
    figure=TargetFigure(
        reference="sgd",
        share=0.9,
        of="best",
        rule="90% of the best",
        panels=(("test/accuracy", "epochs"), ("test/loss", "time")),
    ),
    seeds=3,
    timed=True,
)
# The epoch at which the accuracy of each seed crosses 0.45, or None if it never does. The accuracy
# increases by 0.05 per epoch. SGD ends at 0.5, so 0.45 is the target, 90% of SGD's best accuracy.
CROSSINGS = {
    "foof": [4.5, 5.25, 6.5],
    "sgd": [9.0, 9.0, 9.0],
    "kfac": [3.0, None, None],
    "eva": [6.5, 7.5, None],
}
STEP = {"foof": 0.2, "sgd": 0.1}
PAPER_FILE = """
paper: P
title: t
source: s
lost: []
tables:
  - table: Table 5
    rows: {FOOF: foof corrected, SGD: sgd corrected, KFAC: kfac corrected, Eva: eva corrected}
    columns:
      epochs: {metric: target/epochs, unit: epochs, margin: 2, workload: digits/cnn, epochs: 10, target: 0.45}
      time: {metric: target/time, unit: hours, margin: 0.0013, workload: digits/cnn, epochs: 10, hardware: GPU}
      saved: {metric: target/epochs_reduction, unit: percent, margin: 5, workload: digits/cnn, reference: sgd}
      other: {metric: target/time_reduction, unit: percent, margin: 5, workload: digits/cnn, hardware: A100}
    cells:
      FOOF: {epochs: 6, time: 0.007, saved: 80, other: 20}
      SGD: {epochs: 20}
      KFAC: {epochs: not reached}
      Eva: {epochs: 8}
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An output folder with trials whose accuracies cross the target at the epochs `CROSSINGS`.

    Seed 2 of kfac diverges before its first commit.
    """

    def metrics(trial, epoch):
        crossing = CROSSINGS[trial.arm.optimizer][trial.config.seed]
        accuracy = 0.3 if crossing is None else 0.45 + 0.05 * (epoch + 1 - crossing)
        return {
            "test/accuracy": accuracy,
            "test/loss": 1 / (1 + epoch),
            "train/loss": 2 / (1 + epoch),
        }

    monkeypatch.setattr("folders.metrics", metrics)
    for trial in planned():
        diverges = (trial.arm.optimizer, trial.config.seed) == ("kfac", 2)
        write_trial(
            tmp_path, trial, 0 if diverges else EPOCHS, DIVERGED if diverges else "completed"
        )
    return tmp_path


def planned() -> list[Trial]:
    return STUDY.trials(recipe={"epochs": EPOCHS})


def write_costs(root, name="a-gpu"):
    for trial in planned():
        if trial.arm.optimizer in STEP:
            write_cost_result(root / "cost" / name, trial.config, STEP[trial.arm.optimizer])


def read_times(root):
    evidence, figure = folders.evidence(root, planned(), STUDY), STUDY.figure.on("digits/cnn")
    rule = {"share": figure.share, "of": figure.of, "rule": figure.rule}
    target = targets.target_of_runs(evidence.frame, figure.metric, figure.reference, **rule)
    return targets.Times(
        evidence=evidence,
        metric=figure.metric,
        reference=figure.reference,
        target=target,
        costs=costs.read(planned(), root),
    )


def render(root, trials=None, study=STUDY):
    return {path.name: path for path in folders.report(root, trials or planned(), study).files}


def text_of(root, trials=None, study=STUDY):
    return render(root, trials, study)["report.md"].read_text()


def row(text: str, arm: str) -> list[str]:
    """Return an arm's cells in the table of times."""
    table = text.partition("## Time to the target")[2].partition("## Results")[0]
    [line] = re.findall(rf"^\| {arm} \| (\d of .*) \|$", table, re.MULTILINE)
    return line.split(" | ")


def test_report_contains_the_known_times(root, tmp_path):
    write_costs(root)
    text = text_of(root)
    source = "90% of the best: 0.9 x 50.00%, the mean accuracy of the best epoch over 3 trials"
    assert f"**Target.** A test accuracy of 45.00% ({source})." in text
    foof = row(text, "foof")
    # An epoch of FOOF takes 18 steps x 0.2 s + 600 evaluations x 1 ms = 4.2 s.
    # An epoch of SGD takes 2.4 s.
    assert (foof[0], foof[1], foof[3], foof[4]) == ("3 of 3", "5.25", "0.58", "4.20 [3.84, 4.56]")
    assert foof[5].startswith("22.05 s [") and foof[6] == "1.02"
    assert row(text, "sgd")[5].startswith("21.60 s [") and row(text, "sgd")[6] == "1.00"
    assert "**Hardware.** A-GPU" in text


def test_interval_of_the_time_is_the_product_of_the_intervals_of_epochs_and_seconds(
    root, monkeypatch
):
    write_costs(root)
    foof = row(text_of(root), "foof")
    assert (foof[2], foof[5]) == ("[-, -]", "22.05 s [-, -]")  # three seeds have no interval
    monkeypatch.setattr("studies.harness.statistics.times._interval", lambda *runs: (4.0, 6.0))
    foof = row(text_of(root), "foof")
    # 3.84 s * 4 and 4.56 s * 6
    assert (foof[2], foof[5]) == ("[4.00, 6.00]", "22.05 s [15.36, 27.36]")


def test_runs_that_miss_the_target_are_counted_as_censored(root, tmp_path):
    text = text_of(root)
    # The trial that diverged during its first epoch is one of the three.
    assert row(text, "kfac")[:2] == ["1 of 3", "-"]
    assert "kfac none (1 of 3 trials reached it)" in text
    # The survival curve is 1, 2/3, 1/3: it falls below one half at the second hit.
    assert row(text, "eva")[:2] == ["2 of 3", "7.50"]


def test_censored_runs_are_marked_in_the_figure(root, monkeypatch: pytest.MonkeyPatch):
    """A mark is at the last epoch of the arm and at the target, with the number of the runs."""
    marks: list[tuple[str, float, float]] = []
    monkeypatch.setattr(figures, "save", lambda figure, folder, name: [folder / name])
    monkeypatch.setattr(
        Axes, "annotate", lambda self, text, xy, *_, **__: marks.append((text, *xy))
    )
    folders.draw(root, planned(), STUDY)
    assert marks == [("2 of 3", EPOCHS, 45.0), ("1 of 3", EPOCHS, 45.0)]


def test_report_has_the_commands_for_missing_costs_only(root, tmp_path):
    write_costs(root)
    text = text_of(root)
    assert row(text, "kfac")[4:] == ["not measured", "-", "-"]
    assert "- `python -m trainables.cost digits/cnn --batch-size=64 --optimizers=kfac,eva`" in text
    assert text.count("python -m trainables.cost") == 1


def test_each_hardware_has_a_table_and_a_figure(root, tmp_path):
    write_costs(root, "a-gpu")
    write_costs(root, "b-2-threads")
    paths = render(root)
    text = paths["report.md"].read_text()
    assert "**Hardware.** A-GPU" in text and "**Hardware.** B-2-THREADS, 2 threads" in text
    table = pd.read_csv(paths["time_to_target.csv"])
    assert len(table) == 8 and table["s/epoch median"].notna().sum() == 4
    assert {"time_to_target.svg", "time_to_target_2.svg", "epochs_over_target.svg"} <= set(paths)


def test_equal_folders_give_equal_bytes(root, tmp_path):
    write_costs(root)
    first = {name: path.read_bytes() for name, path in render(root).items()}
    second = render(root)
    assert list(first) == list(second)
    assert all(first[name] == second[name].read_bytes() for name in first)


def test_epochs_over_target_equal_the_epochs_to_each_target(root, tmp_path):
    table = pd.read_csv(render(root)["epochs_over_target.csv"])
    sgd = table[table["arm"] == "sgd"].dropna(subset="median")
    assert len(sgd) > 5
    # SGD's accuracy is 0.05 x epoch, so the first epoch reaches all targets up to 0.05.
    # A target that only the last epoch reaches has no median.
    expected = [max(1.0, target / 0.05) for target in sgd["target"]]
    assert list(sgd["median"]) == pytest.approx(expected)
    assert sgd["target"].max() <= 0.45 + 0.05


def test_report_without_the_reference_has_no_target(root, tmp_path):
    trials = [trial for trial in planned() if trial.arm.optimizer != "sgd"]
    text = text_of(root, trials)
    assert "**Target.** There is no target yet, because no trial of `sgd` has completed." in text
    part = STUDY.figure.on("digits/cnn").extend(
        folders.plan(root, trials, STUDY), folders.evidence(root, trials, STUDY)
    )
    assert not part.files and not part.measured and part.drawn
    assert folders.draw(tmp_path / "empty", planned(), STUDY) == []


def test_verdicts_on_epochs_times_and_reductions(root, tmp_path, monkeypatch):
    (tmp_path / "p.yaml").write_text(PAPER_FILE)
    monkeypatch.setattr("studies.harness.published.papers.PAPERS", tmp_path)
    write_costs(root)
    paths = render(root)
    table = pd.read_csv(paths["published.csv"]).set_index(["row", "column"])
    verdicts = {key: (r["verdict"], str(r["why"])) for key, r in table.iterrows()}
    # FOOF takes 5, 6 and 7 whole epochs: mean 6, SD 1. With one published run, the 90% interval of
    # the difference is +- 2.92 * sqrt(1 + 1 / 3) = 3.4, which is wider than the margin.
    assert verdicts["FOOF", "epochs"][0] == "compatible"
    assert table.loc[("FOOF", "epochs"), "measured_mean"] == pytest.approx(6.0)
    assert verdicts["SGD", "epochs"][0] == "differs"
    # The hardware is the same, because the published name "GPU" is a part of "A-GPU".
    assert verdicts["FOOF", "time"][0] == "compatible"
    assert verdicts["KFAC", "epochs"] == ("compatible", "1 of 3 failed, 1 of 3 missed the target")
    assert verdicts["Eva", "epochs"][1] == "1 of 3 missed the target"
    # This is the Kaplan-Meier median, not the mean over the runs that reach the target.
    assert table.loc[("Eva", "epochs"), "measured_mean"] == 8.0
    assert verdicts["FOOF", "saved"][0] == "protocol differs"  # 10 epochs, not the recipe's 20
    assert "hardware=A-GPU instead of A100" in verdicts["FOOF", "other"][1]
    assert "**Target.** A test accuracy of 45.00% (P, Table 5)." in paths["report.md"].read_text()


def test_measured_times_and_reductions_name_their_hardware(root):
    write_costs(root)
    results = {
        (result.label, result.metric): result
        for result in target_results.measured(read_times(root))
    }
    saved = results["foof", "target/time_reduction"]
    assert saved.values == pytest.approx(
        {s: 1 - e * 4.2 / (9 * 2.4) for s, e in enumerate([5, 6, 7])}
    )
    assert saved.settings["hardware"] == "A-GPU" and saved.settings["reference"] == "sgd"
    assert results["foof", "target/time"].values == pytest.approx({0: 21.0, 1: 25.2, 2: 29.4})
    assert ("sgd", "target/epochs_reduction") not in results
    eva = results["eva", "target/epochs"]
    assert eva.median is not None and eva.median.median == 8.0
    assert (eva.values, eva.failures, eva.missed) == ({0: 7.0, 1: 8.0}, 0, 1)


# ---------------------------------------------------------------------- claims and misses


def test_claims_compare_the_epochs_and_seconds_of_each_seed(root):
    write_costs(root)
    tables = targets.claim_values(read_times(root))
    epochs = tables[EPOCHS_TO_TARGET]
    assert epochs.to_dict("list") == {
        "foof": pytest.approx([4.5, 5.25, 6.5]),
        "sgd": pytest.approx([9.0, 9.0, 9.0]),
        "kfac": [pytest.approx(3.0), math.inf, math.inf],  # a miss, and a trial that diverged
        "eva": [pytest.approx(6.5), pytest.approx(7.5), math.inf],
    }
    seconds = tables[SECONDS_TO_TARGET]
    assert list(seconds["foof"]) == pytest.approx([4.2 * epoch for epoch in epochs["foof"]])
    assert list(seconds["sgd"]) == pytest.approx([2.4 * 9] * 3)
    assert seconds[["kfac", "eva"]].isna().all(axis=None)


def test_trials_without_an_end_or_a_target_have_no_value(root):
    times = read_times(root)
    times.evidence.frame.loc[times.evidence.frame["arm"] == "foof", "status"] = "in flight"
    epochs = targets.claim_values(times)[EPOCHS_TO_TARGET]
    assert epochs["foof"].isna().all() and epochs["sgd"].notna().all()
    assert targets.claim_values(replace(times, target=None))[EPOCHS_TO_TARGET].isna().all(axis=None)


def test_claims_use_the_hardware_on_which_most_arms_were_measured(root):
    write_costs(root, "b-gpu")
    write_cost_result(root / "cost" / "a-gpu", planned()[0].config, 9.0)
    times = read_times(root)
    assert targets.claim_costs(times) is times.costs.machines["B-GPU"]
    notes = [block.text for block in report.blocks(times) if getattr(block, "note", False)]
    assert "Their seconds are those on B-GPU." in notes[0]


def test_miss_of_the_reference_is_not_a_miss_of_the_arm(request, monkeypatch):
    monkeypatch.setitem(CROSSINGS, "sgd", [9.0, 9.0, None])
    times = read_times(request.getfixturevalue("root"))
    times = replace(times, target=targets.Target(0.45, "the test"))
    results = {(result.label, result.metric): result for result in target_results.measured(times)}
    saved = results["foof", "target/epochs_reduction"]
    assert saved.values == pytest.approx({0: 1 - 5 / 9, 1: 1 - 6 / 9})
    assert (saved.missed, saved.failures, saved.reference_missed) == (0, 0, 1)
    # Eva misses the target under the same seed as the reference.
    eva = results["eva", "target/epochs_reduction"]
    assert (eva.missed, eva.reference_missed) == (1, 0)
    # The reference was not trained under seed 2.
    frame = times.evidence.frame
    frame.loc[(frame["arm"] == "sgd") & (frame["seed"] == 2), "status"] = "not run"
    times = replace(times)  # without the cached curves
    results = {(result.label, result.metric): result for result in target_results.measured(times)}
    saved = results["foof", "target/epochs_reduction"]
    assert (len(saved.values), saved.missed, saved.reference_missed) == (2, 0, 0)


# ---------------------------------------------------------------------- the commands


def trials_of(study: Study, workload: str, **recipe) -> list[Trial]:
    return study.trials(workload, [0], recipe)


STUDIES_AND_WORKLOADS = [
    *[
        (NYSACT, name)
        for name in ("digits/cnn", "cifar10/resnet32", "cifar100/resnet32", "imagenet/deit_s")
    ],
    *[(STEVE, name) for name in ("digits/cnn", "cifar10/resnet50", "cifar100/vit_s16")],
]


@pytest.mark.parametrize(("study", "workload"), STUDIES_AND_WORKLOADS)
def test_commands_measure_exactly_the_missing_configurations(study, workload):
    """With these commands, the benchmark would write exactly the files that the study reads."""
    trials = trials_of(study, workload)
    trials += [
        Trial(t.arm, resolve(workload, "sgd", {"momentum": 0.0}, {"batch_size": 32}))
        for t in trials[:1]
    ]
    names = set()
    for command in costs.commands(trials):
        words = shlex.split(command)
        assert words[:3] == ["python", "-m", "trainables.cost"]
        options = benchmark._parse(words[3:])
        assert not benchmark.errors(words[3:])
        setting = benchmark.Setting(
            options.workload, options.batch_size, options.device, options.channels_last, options.overrides, None,
            options.as_released,
        )  # fmt: skip
        names |= {file_name(setting.configuration(name)) for name in options.optimizers}
    assert names == {result_name(trial.config) for trial in trials}


def test_arms_with_equal_flags_share_a_command():
    trials = trials_of(NYSACT, "imagenet/resnet50")
    [command] = costs.commands(trials)
    assert command == (
        "python -m trainables.cost imagenet/resnet50 --batch-size=1024 --as-released "
        "--optimizers=nysact-s,sgd,adamw,kfac,eva,foof"
    )


def test_configurations_that_the_benchmark_does_not_support_have_a_reason_instead_of_a_command():
    trial = trials_of(NYSACT, "cifar10/resnet32", compile=True)[0]
    assert costs.commands([trial]) == [
        "nysact-s as-released: the benchmark does not support compile = True",
    ]
    smaller = trials_of(STEVE, "cifar100/vit_s16", resolution=112)[3]
    assert costs.commands([smaller]) == [
        "adam as-released: the benchmark does not support resolution = 112"
    ]


def test_costs_are_read_only_for_exactly_the_same_configuration(tmp_path):
    """A cost with another `inv_interval` is ignored."""

    def read_costs() -> costs.Costs:
        return costs.read([Trial(Arm(optimizer="foof"), config)], tmp_path)

    config = resolve("digits/cnn", "foof", {"inv_interval": 10})
    [command] = costs.commands(read_costs().unmeasured)
    flags = "--batch-size=64 --set=inv_interval=10 --optimizers=foof"
    assert command == f"python -m trainables.cost digits/cnn {flags}"
    write_cost_result(tmp_path / "cost" / "gpu", resolve("digits/cnn", "foof"))
    assert costs.commands(read_costs().unmeasured) == [command]
    write_cost_result(tmp_path / "cost" / "gpu", config, 0.2)
    cost = read_costs().machines["GPU"]["foof"]
    assert cost is not None and cost.epoch == Median(4.2, pytest.approx(3.84), pytest.approx(4.56))
    assert read_costs().unmeasured == []


def test_report_of_a_timed_study_has_the_seconds_per_epoch(tmp_path):
    figure = LevelFigure(factor="inv_interval", panels=("foof",))
    arms = [
        Arm(optimizer="foof", overrides={"inv_interval": k}, factors=("inv_interval",))
        for k in (5, 50)
    ]
    study = Study(**{**vars(STUDY), "arms": arms, "figure": figure})
    trials = study.trials(seeds=[0])
    write_cost_result(tmp_path / "cost" / "gpu", trials[0].config, ratio=1.5)
    text = text_of(tmp_path, trials, study)
    assert "| foof inv_interval=5 | 2.40 [2.22, 2.58] | 1.500 [1.350, 1.650] |" in text
    assert "| foof inv_interval=50 | not measured | - |" in text
    assert "`python -m trainables.cost digits/cnn --batch-size=64 --optimizers=foof`" in text
    untimed = Study(**{**vars(study), "timed": False})
    assert "Seconds per epoch" in text
    assert "Seconds per epoch" not in text_of(tmp_path, trials, untimed)
