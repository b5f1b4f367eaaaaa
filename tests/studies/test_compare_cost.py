"""The cost study and its report, the exponents of Table 1, and the overhead of the platform."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from folders import write_cost_result

from studies.compare_cost import COST
from studies.harness.command.run import run_command
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


def run_study(root: Path, **options) -> int:
    """Run the study's command in this process and return its exit code."""
    common = {"report_only": True, "tracking_uri": "none", "out": root, "extra": {"device": "cpu"}}
    return run_command([COST], Options(**{**common, **options}))


def cost_result(optimizer: str, ratio: float, **other_ratios: float) -> dict:
    def comparison(median: float) -> dict:
        interval = {"median": median, "low": median - 0.01, "high": median + 0.02}
        shares = {"apply": 0.01, STATISTICS: 0.02, REFRESH: 0.001}
        return {
            "ratio": interval,
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
        "against": {
            name: comparison(value) for name, value in {"sgd": ratio, **other_ratios}.items()
        },
        "memory": memory,
        "sgd_memory": {**memory, "peak_bytes": 100},
    }


def test_report_contains_the_measured_costs(tmp_path: Path, capsys):
    folder = results_folder(tmp_path, torch.device("cpu"), 2)
    folder.mkdir(parents=True)
    other_batch_size = cost_result("kfac", 1.3)
    other_batch_size["configuration"]["batch_size"] = 64
    costs = [cost_result("steve", 1.1, adam=1.05), cost_result("nysact-s", 1.04), other_batch_size]
    for number, cost in enumerate(costs):
        path = folder / f"{cost['configuration']['optimizer']}-{number}.json"
        path.write_text(json.dumps(cost))
    with torch.no_grad():
        measured = scaling.measure(torch.device("cpu"), widths=(16, 24, 32), ranks=(2, 4, 8))
    (folder / "scaling.json").write_text(json.dumps(measured))
    assert run_study(tmp_path) == 0
    paths = list((tmp_path / "reports" / COST.name / folder.name).iterdir())
    screen = " ".join(capsys.readouterr().out.split())
    assert (
        "- Time of a step relative to SGD: nysact-s 1.04, steve 1.10. - Of the published" in screen
    )
    assert f"/{COST.name}/{folder.name}/report.html files" in screen
    reports = {"claims.csv", "cost.csv", "report.md", "report.html", "report.tex", "published.csv"}
    figures = {"scaling.pdf", "scaling.png", "scaling.svg"}
    assert {path.name for path in paths} == {*reports, *figures, ".report.json"}
    report = next(path for path in paths if path.suffix == ".md").read_text()
    shares, memory = "+1.0% | +2.0% | +0.1%", "1.100 | 1.00 | 0.50"
    assert f"| nysact-s | 1.040 [1.030, 1.060] | - | {shares} | {memory} | 600.0 |" in report
    assert "| steve | 1.100 [1.090, 1.120] | 1.050 [1.040, 1.070] |" in report
    assert report.index("nysact-s | 1.0") < report.index("steve | 1.1")
    assert "kfac |" not in report
    assert "hardware: a processor" in report
    exponent = measured["r"]["nysact-s refresh"]["exponent"]
    assert f"| nysact-s refresh | r | {exponent:.2f} |" in report


def test_report_without_measurements_is_an_error_of_one_line(tmp_path: Path, capsys):
    assert run_study(tmp_path) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "remove --report-only" in line


@pytest.fixture
def benchmark_calls(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Let each command of the benchmark fail without running it.

    The list receives the module and the arguments of each command.
    """
    commands: list[list[str]] = []

    def fail(command: list[str], check: bool) -> SimpleNamespace:
        commands.append(command[2:])
        return SimpleNamespace(returncode=1)

    monkeypatch.setattr(execute.subprocess, "run", fail)
    return commands


def test_benchmark_receives_the_settings_and_its_failure_ends_the_command(
    tmp_path: Path, benchmark_calls: list[list[str]], capsys
):
    write_cost_result(
        results_folder(tmp_path, torch.device("cpu"), 2), resolve(COST.workload, "kfac")
    )
    assert run_study(tmp_path, report_only=False, settings={"rank": 5}) == 4
    assert "python -m trainables.cost ended with exit code 1" in capsys.readouterr().err
    [command] = benchmark_calls
    assert command[:2] == ["trainables.cost", "cifar10/resnet32"]
    assert {"--set=rank=5", "--batch-size=128"} <= set(command)
    assert "--optimizers=" + ",".join(COST.optimizers) in command


def test_as_released_variants_are_timed_if_their_costs_differ(
    tmp_path: Path, benchmark_calls: list[list[str]], capsys
):
    options = Options(out=tmp_path, extra={"device": "cpu"})
    [plan] = COST.plan(options)
    assert [command[0] for command in plan.commands] == [
        "trainables.cost",
        "trainables.cost",
        "trainables.cost.scaling",
    ]
    # SGD and Adam have no as-released variant; STEVE has one only on the workloads of its paper.
    assert plan.commands[1][-2:] == (
        "--as-released",
        "--optimizers=nysact-s,nysact-g,eva,foof,kfac",
    )
    [plan] = COST.plan(Options(out=tmp_path, extra={"device": "cpu"}, workload="digits/cnn"))
    # On digits, the optimizers of both papers have as-released variants.
    assert plan.commands[1][-2:] == (
        "--as-released",
        "--optimizers=nysact-s,nysact-g,eva,foof,kfac,steve,ekfac",
    )
    assert run_study(tmp_path, report_only=False, optimizers=["kfca"]) == 2 and not benchmark_calls
    assert 'optimizer = "kfca": unknown. Did you mean "kfac"?' in capsys.readouterr().err


@pytest.mark.parametrize("device", ["mars", "cuda:x", "cpu,cuda"])
def test_unknown_device_is_an_error_of_one_line(
    tmp_path: Path, benchmark_calls: list[list[str]], capsys, device: str
):
    assert (
        run_study(tmp_path, report_only=False, extra={"device": device}) == 2
        and not benchmark_calls
    )
    assert capsys.readouterr().err == f"error: --device = {device}: must be cpu, cuda or cuda:N\n"


def test_dry_run_prints_the_benchmarks_and_runs_none(
    tmp_path: Path, benchmark_calls: list[list[str]], capsys
):
    assert run_study(tmp_path, report_only=False, dry_run=True) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "10 optimizers relative to SGD, batch size 128, 20 blocks for each, on cpu" in text
    assert "0 finished results, 3 benchmarks to run" in text
    assert "python -m trainables.cost cifar10/resnet32 --optimizers=sgd,nysact-s" in text
    assert not benchmark_calls and not list(tmp_path.iterdir())


def test_row_label_is_the_arm_and_hyperparameters_that_differ_from_the_recipe():
    def label(optimizer, overrides=None, as_released=False):
        config = resolve("cifar100/resnet32", optimizer, overrides, as_released=as_released)
        setting = (config.workload, optimizer, config.hyperparameters, config.batch_size)
        return cost_report.label(cost_files.configuration(*setting))

    assert (label("kfac"), label("kfac", as_released=True)) == ("kfac", "kfac as-released")
    assert (label("adam"), label("adam", as_released=True)) == ("adam", "adam")
    assert label("nysact-s", {"rank": 5}) == "nysact-s rank=5"
    assert label("kfac", {"inv_interval": 7}, as_released=True) == "kfac as-released inv_interval=7"
    released = {"optimizer": "released:kfac", "workload": "cifar10/resnet32"}
    assert cost_report.label(released) == "released:kfac"


def test_published_costs_are_compared_with_the_same_configuration(tmp_path: Path):
    """Table 3 has the time ratios 1.40 (NysAct-s), 2.29 (KFAC), 1.77 (Eva) and 1.52 (FOOF).

    The margin of these published numbers is 0.05.
    """
    folder = tmp_path / "cost" / "a-gpu"
    ratios = {"nysact-s": (1.41, 0.01), "kfac": (2.29, 0.1), "eva": (1.5, 0.01)}
    for optimizer, (ratio, width) in ratios.items():
        config = resolve("cifar100/resnet32", optimizer, as_released=True)
        write_cost_result(folder, config, ratio=ratio, width=width)
    # The corrected variant is not compared with the published number.
    write_cost_result(folder, resolve("cifar100/resnet32", "foof"), ratio=1.52)
    write_cost_result(
        folder, resolve("cifar100/resnet110", "sketchysgd"), step=0.1, peak=21_300_000_000
    )
    cells = cost_report.cost_cells(COST)
    published = against(COST, cost_report.measured(cells, folder), {"cifar100/resnet32"})
    assert published is not None
    blocks, rows = sections.published(published), published.comparisons
    verdicts = {
        (row.cell.table, row.cell.row, row.cell.column): (row.verdict, row.why) for row in rows
    }
    expected = {
        "NysAct-s": "reproduced",
        "KFAC": "compatible",
        "Eva": "differs",
        "FOOF": "not run",
    }
    for row, verdict in expected.items():
        assert verdicts["Table 3", row, "ResNet-32 Time"][0] == verdict
    assert verdicts["Table 3", "NysAct-s", "ResNet-32 Mem"][0] == "differs"  # 1.10, published 1.00
    seconds = next(
        row for row in rows if (row.cell.table, row.cell.row) == ("Section 2", "SketchySGD")
    )
    assert seconds.verdict == "protocol differs" and "hardware=A-GPU" in seconds.why
    assert seconds.measured.mean == pytest.approx(390 * 0.1 + 10_000 * 0.001)
    (text,) = [block.text for block in blocks if getattr(block, "label", "") == "Order of the arms"]
    # Kendall's tau has no interval, because costs have no seeds.
    assert text == (
        "Table 3, ResNet-32 Time: Kendall's tau between the published and the measured order "
        "of 3 arms is +1.00."
    )


def test_memory_measured_on_a_cpu_is_not_compared(tmp_path: Path):
    config = resolve("cifar100/resnet32", "eva", as_released=True)
    write_cost_result(tmp_path / "cpu-2-threads", config)
    write_cost_result(tmp_path / "gpu", config)
    cells = cost_report.cost_cells(COST)
    for hardware, metrics in {
        "cpu-2-threads": ["time/ratio"],
        "gpu": ["time/ratio", "mem/ratio"],
    }.items():
        measured = cost_report.measured(cells, tmp_path / hardware)
        assert [result.metric for result in measured] == metrics


def test_report_lists_the_commands_that_measure_missing_published_costs(tmp_path: Path):
    folder = results_folder(tmp_path, torch.device("cpu"), 2)
    write_cost_result(folder, resolve(COST.workload, "kfac"))
    assert run_study(tmp_path) == 0
    text = (tmp_path / "reports" / COST.name / folder.name / "report.md").read_text()
    flags = "--batch-size=128 --as-released --optimizers=kfac,eva,foof,nysact-g,nysact-s"
    assert f"- `python -m trainables.cost cifar100/resnet32 {flags}`" in text
    assert f"cifar100/resnet110 {flags},adahessian,shampoo,sgd,sketchysgd`" in text


def test_exponent_is_the_slope_over_the_larger_sizes():
    sizes = [5, 10, 20, 40, 80]
    assert scaling.exponent(sizes, [3 * size**2.5 for size in sizes]) == pytest.approx(2.5)
    # The lower half of the sizes, in which the value is constant here, is ignored.
    assert scaling.exponent(sizes, [max(size, 20) ** 2 for size in sizes]) == pytest.approx(2)


def test_operation_counts_equal_their_closed_forms():
    assert scaling.PARTS["nysact-s refresh"].operations(100, 10) == 5 * 100 * 100 + 10 * 1000
    assert scaling.PARTS["foof refresh"].operations(100, 10) == 100**3
    assert all(math.isfinite(part.operations(64, 5)) for part in scaling.PARTS.values())


def test_overhead_is_the_time_of_a_slot_outside_the_training_loop():
    """Two slots run five trials.

    Each of the last three starts 0.1 s after the slot is free, and spends 0.2 s outside its loop.
    """
    trials = [
        Span("a", opened=0.0, ended=10.0, worked=9.0),
        Span("b", opened=0.5, ended=8.0, worked=7.0),
        Span("c", opened=8.1, ended=13.1, worked=4.8),
        Span("d", opened=10.1, ended=12.1, worked=1.8),
        Span("e", opened=12.2, ended=14.2, worked=1.8),
    ]
    assert platform_cost.count_slots(trials) == 2
    assert platform_cost.overheads(trials, 2) == pytest.approx([0.3, 0.3, 0.3])
