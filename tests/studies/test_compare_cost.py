"""The cost study's report, Table 1's exponents, and the platform's own cost from folders."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from folders import timed

from studies.compare_cost import COST
from studies.harness.command.run import run
from studies.harness.design.options import Options
from studies.harness.kinds.cost import execute
from studies.harness.kinds.cost import report as cost_report
from studies.harness.published.results import against
from studies.harness.report import sections
from trainables.cost import files as cost_files
from trainables.cost import scaling
from trainables.cost.contestants import REFRESH, STATISTICS
from trainables.cost.files import results_folder
from trainables.workloads import resolve

sys.path.insert(0, str(Path(__file__).parents[1] / "performance"))
import platform_cost
from platform_cost import Span


def go(root: Path, **chosen) -> int:
    """The study's command in this process; its exit code."""
    common = {"report_only": True, "tracking_uri": "none", "out": root, "extra": {"device": "cpu"}}
    return run([COST], Options(**{**common, **chosen}))


def result(optimizer: str, ratio: float, **against: float) -> dict:
    def race(middle: float) -> dict:
        ends = {"median": middle, "low": middle - 0.01, "high": middle + 0.02}
        shares = {"apply": 0.01, STATISTICS: 0.02, REFRESH: 0.001}
        return {
            "ratio": ends,
            "shares": {name: {"median": share} for name, share in shares.items()},
        }

    hyperparameters = resolve(COST.workload, optimizer).hyperparameters
    memory = {
        "peak_bytes": 110,
        "state_bytes": {"algorithm": 2**20, "gradient_buffer": 2**19, "rule": 2**18},
    }
    return {
        "configuration": cost_files.configuration(
            COST.workload, optimizer, hyperparameters, COST.batch_size
        ),
        "conditions": {"hardware": "a processor", "threads": 2},
        "step_seconds": {"median": 0.6},
        "against": {"sgd": race(ratio), **{base: race(value) for base, value in against.items()}},
        "memory": memory,
        "sgd_memory": {**memory, "peak_bytes": 100},
    }


def test_the_report_is_made_of_the_files(tmp_path: Path, capsys):
    folder = results_folder(tmp_path, torch.device("cpu"), 2)
    folder.mkdir(parents=True)
    other = result("kfac", 1.3)
    other["configuration"]["batch_size"] = 64  # another comparison's
    for number, one in enumerate(
        [result("steve", 1.1, adam=1.05), result("nysact-s", 1.04), other]
    ):
        (folder / f"{one['configuration']['optimizer']}-{number}.json").write_text(json.dumps(one))
    with torch.no_grad():
        measured = scaling.measure(torch.device("cpu"), widths=(16, 24, 32), ranks=(2, 4, 8))
    (folder / "scaling.json").write_text(json.dumps(measured))
    assert go(tmp_path) == 0
    paths = list((tmp_path / "reports" / COST.name / folder.name).iterdir())
    screen = " ".join(capsys.readouterr().out.split())
    assert "- Time of a step over SGD's: nysact-s 1.04, steve 1.10. - Of the published" in screen
    assert f"/{COST.name}/{folder.name}/report.html files" in screen
    written = {"cost.csv", "report.md", "report.html", "report.tex", "published.csv"}
    assert {path.name for path in paths} == {
        *written,
        ".report.json",
        "scaling.pdf",
        "scaling.png",
        "scaling.svg",
    }
    report = next(path for path in paths if path.suffix == ".md").read_text()
    assert (
        "| nysact-s | 1.040 [1.030, 1.060] | - | +1.0% | +2.0% | +0.1% | 1.100 | 1.00 | 0.50 | 600.0 |"
        in report
    )
    assert "| steve | 1.100 [1.090, 1.120] | 1.050 [1.040, 1.070] |" in report
    assert report.index("nysact-s | 1.0") < report.index("steve | 1.1")
    assert "kfac |" not in report
    assert "hardware: a processor" in report
    assert (
        f"| nysact-s refresh | r | {measured['r']['nysact-s refresh']['exponent']:.2f} |" in report
    )


def test_nothing_measured_is_one_line(tmp_path: Path, capsys):
    assert go(tmp_path) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "leave --report-only out" in line


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The benchmark's commands (module and arguments), which fail."""
    commands: list[list[str]] = []

    def fail(command: list[str], check: bool) -> SimpleNamespace:
        commands.append(command[2:])
        return SimpleNamespace(returncode=1)

    monkeypatch.setattr(execute.subprocess, "run", fail)
    return commands


def test_the_study_is_passed_on_and_a_failure_ends_it(
    tmp_path: Path, calls: list[list[str]], capsys
):
    timed(results_folder(tmp_path, torch.device("cpu"), 2), resolve(COST.workload, "kfac"))
    assert go(tmp_path, report_only=False, settings={"rank": 5}) == 4
    assert (
        len(calls) == 1
        and "python -m trainables.cost ended with exit code 1" in capsys.readouterr().err
    )
    assert calls[0][:2] == ["trainables.cost", "cifar10/resnet32"]
    assert {"--set=rank=5", "--batch-size=128", "--optimizers=" + ",".join(COST.optimizers)} <= set(
        calls[0]
    )


def test_as_released_arms_are_timed_where_they_cost_something_else(
    tmp_path: Path, calls: list[list[str]], capsys
):
    options = Options(out=tmp_path, extra={"device": "cpu"})
    [plan] = COST.plan(options)
    assert [command[0] for command in plan.commands] == [
        "trainables.cost",
        "trainables.cost",
        "trainables.cost.scaling",
    ]
    # SGD and Adam have no conventions; STEVE's Algorithm 1 is on its own paper's workloads.
    assert plan.commands[1][-2:] == (
        "--as-released",
        "--optimizers=nysact-s,nysact-g,eva,foof,kfac",
    )
    [plan] = COST.plan(Options(out=tmp_path, extra={"device": "cpu"}, workload="digits/cnn"))
    # There both papers' conventions have arms.
    assert plan.commands[1][-2:] == (
        "--as-released",
        "--optimizers=nysact-s,nysact-g,eva,foof,kfac,steve,ekfac",
    )
    assert go(tmp_path, report_only=False, optimizers=["kfca"]) == 2 and not calls
    assert 'optimizer = "kfca": unknown. Did you mean "kfac"?' in capsys.readouterr().err


@pytest.mark.parametrize("device", ["mars", "cuda:x", "cpu,cuda"])
def test_an_unknown_device_is_one_line(tmp_path: Path, calls: list[list[str]], capsys, device: str):
    assert go(tmp_path, report_only=False, extra={"device": device}) == 2 and not calls
    assert capsys.readouterr().err == f"error: --device = {device}: must be cpu, cuda or cuda:N\n"


def test_a_dry_run_prints_the_benchmarks_and_runs_none(
    tmp_path: Path, calls: list[list[str]], capsys
):
    assert go(tmp_path, report_only=False, dry_run=True) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "10 optimizers over SGD, batch size 128, 20 blocks each, on cpu: 0 results there" in text
    assert "python -m trainables.cost cifar10/resnet32 --optimizers=sgd,nysact-s" in text
    assert not calls and not list(tmp_path.iterdir())


def test_a_row_is_called_by_its_arm_and_what_it_has_beside_it():
    def name(optimizer, overrides=None, as_released=False):
        config = resolve("cifar100/resnet32", optimizer, overrides, as_released=as_released)
        given = (config.workload, optimizer, config.hyperparameters, config.batch_size)
        return cost_report.label(cost_files.configuration(*given))

    assert (name("kfac"), name("kfac", as_released=True)) == ("kfac", "kfac as-released")
    assert (name("adam"), name("adam", as_released=True)) == ("adam", "adam")
    assert name("nysact-s", {"rank": 5}) == "nysact-s rank=5"
    assert name("kfac", {"inv_interval": 7}, as_released=True) == "kfac as-released inv_interval=7"
    assert (
        cost_report.label({"optimizer": "released:kfac", "workload": "cifar10/resnet32"})
        == "released:kfac"
    )


def test_published_costs_are_held_against_the_very_configuration(tmp_path: Path):
    """Table 3 has 1.40, 2.29, 1.77 and 1.52 for ResNet-32, with a margin of 0.05; section 2 has seconds."""
    folder = tmp_path / "cost" / "a-gpu"
    ratios = {"nysact-s": (1.41, 0.01), "kfac": (2.29, 0.1), "eva": (1.5, 0.01)}
    for optimizer, (ratio, width) in ratios.items():
        timed(
            folder,
            resolve("cifar100/resnet32", optimizer, as_released=True),
            ratio=ratio,
            width=width,
        )
    timed(
        folder, resolve("cifar100/resnet32", "foof"), ratio=1.52
    )  # the corrected variant is not what was published
    timed(folder, resolve("cifar100/resnet110", "sketchysgd"), step=0.1, peak=21_300_000_000)
    claims = cost_report.costly(COST)
    published = against(COST, cost_report.measured(claims, folder), {"cifar100/resnet32"})
    assert published is not None
    blocks, rows = sections.published(published), published.comparisons
    verdicts = {
        (row.claim.table, row.claim.row, row.claim.column): (row.verdict, row.why) for row in rows
    }
    found = {
        row: verdicts["Table 3", row, "ResNet-32 Time"][0]
        for row in ("NysAct-s", "KFAC", "Eva", "FOOF")
    }
    assert found == {
        "NysAct-s": "reproduced",
        "KFAC": "compatible",
        "Eva": "differs",
        "FOOF": "not run",
    }
    assert verdicts["Table 3", "NysAct-s", "ResNet-32 Mem"][0] == "differs"  # 1.10, published 1.00
    seconds = next(
        row for row in rows if (row.claim.table, row.claim.row) == ("Section 2", "SketchySGD")
    )
    assert seconds.verdict == "protocol differs" and "hardware=A-GPU" in seconds.why
    assert seconds.measured.mean == pytest.approx(
        390 * 0.1 + 10_000 * 0.001
    )  # what was measured is shown
    text = next(
        block for block in blocks if getattr(block, "label", "") == "Order of the arms"
    ).text
    # There is no interval, because there are no seeds.
    assert text == (
        "Table 3, ResNet-32 Time: Kendall's tau between the published and the measured order "
        "of 3 arms is +1.00."
    )


def test_memory_of_a_process_is_held_against_nothing(tmp_path: Path):
    config = resolve("cifar100/resnet32", "eva", as_released=True)
    timed(tmp_path / "cpu-2-threads", config)
    timed(tmp_path / "gpu", config)
    metrics = [
        [one.metric for one in cost_report.measured(cost_report.costly(COST), tmp_path / name)]
        for name in ("cpu-2-threads", "gpu")
    ]
    assert metrics == [["time/ratio"], ["time/ratio", "mem/ratio"]]


def test_what_was_published_and_not_measured_names_its_command(tmp_path: Path):
    folder = results_folder(tmp_path, torch.device("cpu"), 2)
    timed(folder, resolve(COST.workload, "kfac"))
    assert go(tmp_path) == 0
    text = (tmp_path / "reports" / COST.name / folder.name / "report.md").read_text()
    command = (
        "python -m trainables.cost cifar100/resnet32 --batch-size=128 --as-released --optimizers="
    )
    assert f"- `{command}kfac,eva,foof,nysact-g,nysact-s`" in text
    peers = "cifar100/resnet110 --batch-size=128 --as-released --optimizers=kfac,eva,foof,nysact-g,nysact-s,adahessian,"
    assert peers + "shampoo,sgd,sketchysgd`" in text


def test_the_exponent_of_a_power_is_that_power():
    sizes = [5, 10, 20, 40, 80]
    assert scaling.exponent(sizes, [3 * size**2.5 for size in sizes]) == pytest.approx(2.5)
    # Overhead in the lower half does not count.
    assert scaling.exponent(sizes, [max(size, 20) ** 2 for size in sizes]) == pytest.approx(2)


def test_closed_forms_stand_beside_each_part():
    assert scaling.PARTS["nysact-s refresh"].operations(100, 10) == 5 * 100 * 100 + 10 * 1000
    assert scaling.PARTS["foof refresh"].operations(100, 10) == 100**3
    assert all(math.isfinite(part.operations(64, 5)) for part in scaling.PARTS.values())


def test_the_overhead_is_what_a_slot_does_beside_its_trials():
    """Two slots; each later trial waits 0.1 s and spends 0.2 s beside its loop."""
    trials = [
        Span("a", opened=0.0, ended=10.0, worked=9.0),
        Span("b", opened=0.5, ended=8.0, worked=7.0),
        Span("c", opened=8.1, ended=13.1, worked=4.8),
        Span("d", opened=10.1, ended=12.1, worked=1.8),
        Span("e", opened=12.2, ended=14.2, worked=1.8),
    ]
    assert platform_cost.slots_of(trials) == 2
    assert platform_cost.overheads(trials, 2) == pytest.approx([0.3, 0.3, 0.3])
