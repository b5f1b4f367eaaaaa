"""The cost study's report, Table 1's exponents, and the platform's own cost from folders."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
import torch

from studies.compare_cost import COST
from studies.harness import cost
from trainables import scaling
from trainables.contestants import REFRESH, STATISTICS

sys.path.insert(0, str(Path(__file__).parent / "performance"))
import platform_cost
from platform_cost import Span

RAW = {"smoke": False, "report_only": True, "workload": None, "optimizers": None, "batch_size": None, "settings": ()}
RAW |= {"blocks": 20, "threads": 2, "device": "cpu", "reference": None}


def result(optimizer: str, ratio: float, **against: float) -> dict:
    def race(middle: float) -> dict:
        ends = {"median": middle, "low": middle - 0.01, "high": middle + 0.02}
        shares = {"apply": 0.01, STATISTICS: 0.02, REFRESH: 0.001}
        return {"ratio": ends, "shares": {name: {"median": share} for name, share in shares.items()}}

    memory = {"peak_bytes": 110, "state_bytes": {"algorithm": 2**20, "gradient_buffer": 2**19, "rule": 2**18}}
    return {
        "configuration": {"workload": COST.workload, "optimizer": optimizer, "batch_size": COST.batch_size},
        "conditions": {"hardware": "a processor", "threads": 2},
        "step_seconds": {"median": 0.6},
        "against": {"sgd": race(ratio), **{base: race(value) for base, value in against.items()}},
        "memory": memory,
        "sgd_memory": {**memory, "peak_bytes": 100},
    }


def test_the_report_is_made_of_the_files(tmp_path: Path, capsys):
    folder = cost.results_folder(tmp_path, torch.device("cpu"), 2)
    folder.mkdir(parents=True)
    other = result("kfac", 1.3)
    other["configuration"]["batch_size"] = 64  # another comparison's
    for number, one in enumerate([result("steve", 1.1, adam=1.05), result("nysact-s", 1.04), other]):
        (folder / f"{one['configuration']['optimizer']}-{number}.json").write_text(json.dumps(one))
    with torch.no_grad():
        measured = scaling.measure(torch.device("cpu"), widths=(16, 24, 32), ranks=(2, 4, 8))
    (folder / "scaling.json").write_text(json.dumps(measured))
    assert cost.run(COST, {**RAW, "out": str(tmp_path)}) == 0
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert {path.name for path in paths} == {"cost.csv", "report.md", "scaling.pdf", "scaling.png", "scaling.svg"}
    report = next(path for path in paths if path.suffix == ".md").read_text()
    assert "| nysact-s | 1.040 [1.030, 1.060] | - | +1.0% | +2.0% | +0.1% | 1.100 | 1.00 | 0.50 | 600.0 |" in report
    assert "| steve | 1.100 [1.090, 1.120] | 1.050 [1.040, 1.070] |" in report
    assert report.index("nysact-s | 1.0") < report.index("steve | 1.1")
    assert "kfac |" not in report
    assert "hardware: a processor" in report
    assert f"| nysact-s refresh | r | {measured['r']['nysact-s refresh']['exponent']:.2f} |" in report


def test_nothing_measured_is_one_line(tmp_path: Path, capsys):
    assert cost.run(COST, {**RAW, "out": str(tmp_path)}) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "leave --report-only out" in line


def test_the_study_is_passed_on_and_a_failure_ends_it(tmp_path: Path, monkeypatch):
    calls = []
    monkeypatch.setattr(cost, "_measure", lambda *arguments: calls.append(arguments) or 1)
    raw = {**RAW, "out": str(tmp_path), "report_only": False, "settings": ("rank=5",)}
    assert cost.run(COST, raw) == 1
    assert len(calls) == 1
    assert calls[0][:2] == ("trainables.cost", "cifar10/resnet32")
    assert {"--set=rank=5", "--batch-size=128", "--optimizers=" + ",".join(COST.optimizers)} <= set(calls[0])


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
