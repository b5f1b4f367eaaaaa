"""Probes: what they see and compute against float64 by hand, their folders, their command line, Remark 5.6."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from folders import evidence, plan, planned, run
from torch import Tensor, nn

from precond.parts.sketches import ColumnSketch
from studies.ablation_rank import STUDY
from studies.activation_norms import PROBE as NORMS
from studies.covariance_heatmap import PROBE as HEATMAP
from studies.harness.command import manage
from studies.harness.command.cli import main
from studies.harness.kinds.probe import covariances, execute, folder
from studies.harness.kinds.probe import norms as norms_code
from studies.harness.kinds.probe.covariances import APPROXIMATIONS, approximate
from studies.harness.kinds.probe.execute import measure
from studies.harness.kinds.probe.folder import Result
from studies.harness.kinds.probe.norms import GROWTH
from studies.harness.kinds.probe.probe import Covariances, Probe
from studies.harness.kinds.study.figures import Extension, ResidualFigure
from studies.harness.kinds.study.residuals import order, residual_table
from studies.harness.report.figures.probes import draw_covariances, draw_norms
from trainables.config import stream_seed
from trainables.files import append_lines
from trainables.store import StoreError, trial_folder
from trainables.train import Trainer

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
COLUMN, GAUSSIAN, _ = APPROXIMATIONS


def covariance(width: int, seed: int = 0, decay: float = 1.0) -> Tensor:
    """`[1, width, width]` in float64 with eigenvalues k^-decay."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64)).Q
    return (
        (basis * torch.arange(1.0, width + 1, dtype=torch.float64) ** -decay) @ basis.T
    ).unsqueeze(0)


def result(arrays: dict, seed: int = 0) -> Result:
    return Result(seed, {"status": "completed", "metrics": {"test/accuracy": 0.9}}, arrays)


# ---------------------------------------------------------------------- covariances


def test_the_errors_are_those_of_the_nystrom_matrix_of_the_same_columns():
    a = covariance(40)[0]
    arrays = covariances.arrays(Covariances(rank=6, draws=3), {"layer": a.unsqueeze(0)}, seed=5)
    for draw in range(3):
        columns = ColumnSketch.draw([f"layer#{draw}"], 40, 6, 5, a).columns[0]
        c = a[:, columns]
        nystrom = c @ torch.linalg.pinv(c[columns], hermitian=True) @ c.T
        left = a - nystrom
        frobenius = torch.linalg.matrix_norm(left) / torch.linalg.matrix_norm(a)
        spectral = torch.linalg.matrix_norm(left, 2) / torch.linalg.matrix_norm(a, 2)
        assert arrays["frobenius"][0, 0, draw] == pytest.approx(frobenius.item(), rel=1e-6)
        assert arrays["spectral"][0, 0, draw] == pytest.approx(spectral.item(), rel=1e-6)
    assert len(set(arrays["frobenius"][0, 1])) == 3  # each draw is another


def test_the_floor_is_the_tail_of_the_spectrum_and_nothing_is_below_it():
    arrays = covariances.arrays(Covariances(rank=6, draws=4), {"layer": covariance(40)}, seed=0)
    values = torch.arange(1.0, 41, dtype=torch.float64) ** -1
    floor = values[6:].square().sum().sqrt() / values.square().sum().sqrt()
    assert arrays["frobenius"][0, 2] == pytest.approx([floor.item()] * 4, rel=1e-9)
    assert arrays["spectral"][0, 2] == pytest.approx([values[6].item()] * 4, rel=1e-9)
    for norm in ("frobenius", "spectral"):
        assert (arrays[norm][0, :2] >= arrays[norm][0, 2:] * (1 - 1e-9)).all()


def test_the_matrices_in_the_figure_are_those_of_the_errors():
    """Of the widest three layers that are approximated, the last of each width; groups are layers of their own."""
    stacks = {
        "a": covariance(5),
        "b": covariance(20, 1),
        "c": covariance(20, 2),
        "d": covariance(30, 3),
    }
    stacks["e"] = torch.cat([covariance(12, 4), covariance(12, 5)])
    arrays = covariances.arrays(Covariances(rank=5, draws=2), stacks, seed=0)
    assert list(arrays["layers"]) == ["a", "b", "c", "d", "e[0]", "e[1]"]
    assert list(arrays["inputs"]) == [5, 20, 20, 30, 12, 12]
    assert list(arrays["shown"]) == [2, 3, 5]
    assert arrays["frobenius"][0] == pytest.approx(0, abs=1e-12)  # p <= r is kept
    for number in (2, 3, 5):
        actual = arrays[f"actual/{number}"]
        for k, kind in enumerate(APPROXIMATIONS):
            error = np.linalg.norm(actual - approximate(arrays, kind, number)) / np.linalg.norm(
                actual
            )
            assert error == pytest.approx(arrays["frobenius"][number, k, 0], rel=1e-4)


def test_a_covariance_of_low_rank_is_recovered_and_one_of_zeros_is_no_error():
    root = torch.randn(30, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    stacks = {"low": (root @ root.T).unsqueeze(0), "dead": torch.zeros(1, 30, 30)}
    arrays = covariances.arrays(Covariances(rank=4, draws=3), stacks, seed=0)
    assert arrays["frobenius"][0].max() < 1e-6
    assert np.isnan(arrays["frobenius"][1]).all()
    seen = replace(HEATMAP.measurement, draws=3)
    numbers = covariances.numbers(seen, [result(arrays)])
    assert "In 0 of 2 layers" in covariances.blocks(seen, numbers)[0].text


def test_a_layer_that_loses_more_than_half_is_named():
    arrays = covariances.arrays(
        Covariances(rank=2, draws=10),
        {"flat": covariance(40, decay=0.0), "low": covariance(40, 1, 3)},
        0,
    )
    numbers = covariances.numbers(HEATMAP.measurement, [result(arrays)])
    text = covariances.blocks(HEATMAP.measurement, numbers)[0].text
    assert text == "In 1 of 2 layers the column sketch has a mean Frobenius error above 0.5: flat."


# ---------------------------------------------------------------------- what is seen


def patches(x: Tensor) -> Tensor:
    """Rows of a 3 x 3 convolution with padding 1, in float64."""
    return F.unfold(x.double(), 3, padding=1).transpose(1, 2).flatten(0, 1)


class Inputs:
    """Every training input of two layers of digits/cnn, kept by hand."""

    def __init__(self, model: nn.Module):
        self.first: list[Tensor] = []
        self.last: list[Tensor] = []
        for module, kept in ((model[0], self.first), (model[10], self.last)):
            module.register_forward_hook(self._keep(kept))

    def _keep(self, kept: list[Tensor]):
        return lambda module, args, output: (
            kept.append(args[0].detach().clone()) if module.training else None
        )


@pytest.fixture
def inputs(monkeypatch: pytest.MonkeyPatch) -> list[Inputs]:
    """The inputs of every network that is trained."""
    kept: list[Inputs] = []
    init = Trainer.__init__

    def watched(self, *args, **kwargs):
        init(self, *args, **kwargs)
        kept.append(Inputs(self.model))

    monkeypatch.setattr(Trainer, "__init__", watched)
    return kept


def trial(one: Probe, **recipe):
    return one.trials("digits/cnn", [0], {"epochs": 2, "batch_size": 256, **recipe})[0].config


def test_the_heatmap_is_of_the_last_epochs_training_batches(tmp_path: Path, inputs: list[Inputs]):
    one = replace(HEATMAP, measurement=Covariances(rank=5, draws=1))
    arrays = measure(one, trial(one), tmp_path, CPU).arrays
    [seen] = inputs
    steps = len(seen.first) // 2
    first = torch.cat([patches(x) for x in seen.first[steps:]])
    last = torch.cat([x.double() for x in seen.last[steps:]])
    last = torch.cat([last, torch.ones(len(last), 1)], 1)
    assert list(arrays["inputs"]) == [9, 144, 288, 513]
    expected = (last.T @ last / len(last)).numpy()
    np.testing.assert_allclose(arrays["actual/3"], expected, rtol=1e-4, atol=1e-5 * expected.max())
    small = (first.T @ first / len(first)).unsqueeze(0)
    by_hand = covariances.arrays(one.measurement, {"0": small}, stream_seed(0, "optimizer"))
    assert arrays["frobenius"][0, 0, 0] == pytest.approx(by_hand["frobenius"][0, 0, 0], rel=1e-3)


def test_the_norms_are_those_of_every_step(tmp_path: Path, inputs: list[Inputs]):
    arrays = measure(NORMS, trial(NORMS), tmp_path, CPU).arrays
    [seen] = inputs
    assert arrays["norms"].shape == (len(seen.first), 4)
    assert list(arrays["convolution"]) == [True, True, True, False]
    for step, (x, y) in enumerate(zip(seen.first, seen.last, strict=True)):
        y = torch.cat([y.double(), torch.ones(len(y), 1)], 1)
        for column, rows in ((0, patches(x)), (3, y)):
            norm = torch.linalg.matrix_norm(rows.T @ rows / len(rows))
            assert arrays["norms"][step, column] == pytest.approx(norm.item(), rel=1e-4)


def test_watching_changes_no_number_of_the_training(tmp_path: Path):
    plain = Trainer(trial(NORMS), CPU)
    wanted = [plain.run_epoch(epoch)["train/loss"] for epoch in range(2)]
    for one in (NORMS, replace(HEATMAP, measurement=Covariances(rank=5, draws=1))):
        losses: list[float] = []
        measure(
            one,
            trial(one),
            tmp_path,
            CPU,
            lambda epoch, metrics, losses=losses: losses.append(metrics["train/loss"]),
        )
        assert losses == wanted


def norms(values: np.ndarray) -> dict:
    layers = np.array([f"layer{i}" for i in range(values.shape[1])])
    kinds = np.arange(values.shape[1]) < 2
    return {
        "layers": layers,
        "convolution": kinds,
        "inputs": np.full(len(layers), 9),
        "norms": values,
    }


def test_a_norm_that_still_grows_or_is_zero_is_named():
    steps = np.linspace(0, 1, 100)
    values = np.stack([np.ones(100), 1 + 10 * steps**4, np.maximum(1 - 2 * steps, 0)], 1)
    numbers = norms_code.numbers(NORMS.measurement, [result(norms(values))])
    assert list(numbers["smallest"]) == [1, 1, 0]
    assert list(numbers["largest"]) == [1, 11, 1]
    tenth = values[90:, 1].mean() / values[80:90, 1].mean() - 1
    assert numbers["growth"][1] == pytest.approx(tenth) and tenth > GROWTH
    text = norms_code.blocks(NORMS.measurement, numbers)[0].text
    assert (
        "1 of 3 layers still grow" in text
        and "(layer1)" in text
        and "norm of 1 reached zero (layer2)" in text
    )


def test_figures_with_many_layers_and_one_kind_are_drawn(tmp_path: Path):
    values = np.exp(np.random.default_rng(0).normal(size=(1000, 12)))
    many = norms(values) | {"convolution": np.ones(12, dtype=bool)}
    assert [path.suffix for path in draw_norms([many, many], tmp_path)] == [".pdf", ".png", ".svg"]
    assert (tmp_path / "norms.svg").stat().st_size < 500_000
    assert draw_covariances({"shown": np.array([], dtype=np.int64)}, APPROXIMATIONS, tmp_path) == []


# ---------------------------------------------------------------------- folders


def test_a_result_is_found_again_by_what_decides_it(tmp_path: Path):
    config = trial(NORMS, epochs=1)
    assert folder.read(NORMS, config, tmp_path) is None
    made = measure(NORMS, config, tmp_path, CPU)
    read = folder.read(NORMS, config, tmp_path)
    assert read is not None and read == replace(made, arrays=read.arrays)
    assert all(np.array_equal(array, read.arrays[name]) for name, array in made.arrays.items())
    assert folder.read(NORMS, config.with_seed(1), tmp_path) is None
    other = replace(HEATMAP, measurement=Covariances(rank=3))
    assert len({folder.key(one, config) for one in (NORMS, HEATMAP, other)}) == 3


def test_a_kill_while_writing_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Whatever write is the last, there is no result, and the next run makes a whole one."""
    config, arrays = trial(NORMS), {"norms": np.arange(3.0)}
    place, calls = folder.probe_folder(tmp_path, folder.key(NORMS, config)), 0

    def die_at(last: int):
        nonlocal calls
        calls = 0

        def dying(*_):
            nonlocal calls
            calls += 1
            if calls > last:
                raise KeyboardInterrupt

        return dying

    for last in range(4):
        monkeypatch.setattr(folder, "sync", die_at(last))
        monkeypatch.setattr(folder, "sync_directory", folder.sync)
        with pytest.raises(KeyboardInterrupt):
            folder.write(NORMS, config, tmp_path, {"status": "completed"}, arrays)
        assert not place.exists()
    monkeypatch.undo()
    folder.write(NORMS, config, tmp_path, {"status": "completed"}, arrays)
    assert {path.name for path in place.iterdir()} == {"config.json", "status.json", "arrays.npz"}
    assert [path.name for path in place.parent.iterdir()] == [place.name]


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_damage_is_a_line_that_says_what_to_do(tmp_path: Path, damage: str):
    config = trial(NORMS, epochs=1)
    measure(NORMS, config, tmp_path, CPU)
    path = folder.probe_folder(tmp_path, folder.key(NORMS, config)) / "arrays.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({"cut": content[:-50], "flipped": content, "gone": b""}[damage])
    if damage == "gone":
        path.unlink()
    with pytest.raises(StoreError, match=r"damaged.*remove it and run again"):
        folder.read(NORMS, config, tmp_path)


def test_a_newer_schema_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = trial(NORMS, epochs=1)
    measure(NORMS, config, tmp_path, CPU)
    monkeypatch.setattr(folder, "SCHEMA", 0)
    with pytest.raises(StoreError, match="schema 1, this version reads up to 0"):
        folder.read(NORMS, config, tmp_path)


# ---------------------------------------------------------------------- the command line


def command(one: Probe, tmp_path: Path, *arguments: str) -> int:
    """A probe's command in this process; its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setenv("PRECOND_DATA", "data")  # --data-dir changes it
        patch.setattr(sys, "argv", [f"{one.name}.py", *arguments])
        before = signal.getsignal(signal.SIGTERM)
        with pytest.raises(SystemExit) as ended:
            main(one)
        signal.signal(signal.SIGTERM, before)
    return int(ended.value.code or 0)


@pytest.mark.parametrize("one", [HEATMAP, NORMS], ids=lambda one: one.name)
def test_a_smoke_run_ends_with_a_report_and_a_second_one_trains_nothing(
    one: Probe, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    assert command(one, tmp_path, "--smoke", "--tracking-uri", "none") == 0
    assert "0 done, 2 to go" in capsys.readouterr().out
    place = tmp_path / "outputs" / "smoke" / "reports" / one.name / "digits-cnn"
    first = {path.name: path.read_bytes() for path in place.glob("[!.]*")}
    stem = "covariances" if one is HEATMAP else "norms"
    figure = {f"{stem}.{suffix}" for suffix in ("pdf", "png", "svg")}
    assert set(first) == {"report.md", "report.html", "report.tex", "numbers.csv", *figure}
    text = first["report.md"].decode()
    assert one.claim in text and one.falsifier in text and "2 of 2 completed; test accuracy" in text
    assert one.papers_command in text and "**Verdict.**" in text and b"<img" in first["report.html"]
    monkeypatch.setattr(execute, "Trainer", None)
    assert command(one, tmp_path, "--smoke", "--tracking-uri", "none") == 0
    assert "2 done, 0 to go" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in place.glob("[!.]*")} == first


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (("--set", "rank=0"), ["rank = 0: must be an integer >= 1"]),
        (
            ("--set", "rank=2.5", "--set", "draws=0"),
            ["rank = 2.5: must be", "draws = 0: must be an integer >= 1"],
        ),
        (
            ("--set", "rank=514"),
            ["rank = 514: the widest layer (10) has 513 inputs with bias, use 1..513"],
        ),
        (("--set", "rnk=3"), ['--set rnk: unknown. Did you mean "rank"?']),
        (("--set", "lr=-1"), ["lr = -1: must be"]),
        (
            ("--set", "compile=true"),
            ["compile = True: a probe watches layers as they are written; leave it out"],
        ),
        (
            ("--workload", "digits/cn", "--epochs", "0"),
            ["--epochs = 0", '--workload = "digits/cn": unknown'],
        ),
        (
            ("--optimizers", "adam"),
            ["--optimizers: not available for covariance_heatmap, which has no arms"],
        ),
        (("--seed", "3"), ["--seed: unknown option. Did you mean --seeds?"]),
        (("--workload", "cifar10/lenet5", "--data-dir", "nowhere"), ["nowhere"]),
    ],
)
def test_a_bad_command_is_a_line_each_and_writes_nothing(
    arguments: tuple[str, ...], lines: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert command(HEATMAP, tmp_path, *arguments) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == len(lines) and all(error.startswith("error: ") for error in errors)
    for line in lines:
        assert any(line in error for error in errors), errors
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert (
        command(NORMS, tmp_path, "--dry-run", "--seeds", "4,7", "--workload", "cifar10/lenet5") == 0
    )
    assert (
        "2 networks (sgd, 100 epochs): 0 done, 2 to go" in capsys.readouterr().out
    )  # the paper's, not the recipe's
    assert list(tmp_path.iterdir()) == []


def test_a_diverged_network_is_a_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = (
        "--smoke",
        "--set",
        "lr=1e12",
        "--set",
        "batch_size=256",
        "--seeds",
        "1",
        "--tracking-uri",
        "none",
    )
    for done in (0, 1):
        assert command(NORMS, tmp_path, *arguments) == 0
        assert f"{done} done, {1 - done} to go" in capsys.readouterr().out
    report = next(tmp_path.rglob("report.md")).read_text()
    assert "1 of 1 diverged. seed 0: loss = " in report and "![" not in report


def test_what_is_missing_is_said_and_only_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert command(NORMS, tmp_path, "--smoke", "--report-only", "--tracking-uri", "none") == 0
    assert "2 of 2 not run." in next(tmp_path.rglob("report.md")).read_text()
    assert not (tmp_path / "outputs" / "smoke" / "probes").exists()


def test_mlflow_has_one_run_with_the_figure_and_the_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    import mlflow

    for _ in range(2):
        assert command(NORMS, tmp_path, "--smoke", "--seeds", "1", "--set", "batch_size=256") == 0
        assert "tracking failed" not in capsys.readouterr().out
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/outputs/smoke/mlflow.db")
    experiment = client.get_experiment_by_name("activation_norms-smoke")
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id])
    assert {
        f"{name}/{layer}"
        for name in ("smallest", "largest", "growth")
        for layer in ("0", "3", "6", "10")
    } == set(run.data.metrics)
    assert run.data.params["optimizer"] == "sgd" and run.info.status == "FINISHED"
    assert {artifact.path for artifact in client.list_artifacts(run.info.run_id)} >= {
        "norms.png",
        "report.html",
    }


def test_json_is_the_numbers_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = (
        "--smoke",
        "--seeds",
        "1",
        "--set",
        "batch_size=256",
        "--json",
        "--tracking-uri",
        "none",
    )
    assert command(NORMS, tmp_path, *arguments) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["probe"] == "activation_norms" and len(document["numbers"]) == 4


def test_a_killed_probe_leaves_no_result_and_is_run_again(tmp_path: Path):
    """SIGKILL while a network trains; the same command then does it all. SIGTERM says so and how to go on."""
    code = "from studies.activation_norms import PROBE, main; main(PROBE)"
    arguments = [
        sys.executable,
        "-c",
        code,
        "--out",
        str(tmp_path),
        "--tracking-uri",
        "none",
        "--seeds",
        "1",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for number in (signal.SIGKILL, signal.SIGTERM):
        process = subprocess.Popen(
            [*arguments, "--epochs", "5000"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None and process.stderr is not None
        while "to go" not in (line := process.stdout.readline()):
            assert line, process.stderr.read()
        time.sleep(1)
        process.send_signal(number)
        errors = process.communicate(timeout=60)[1]
        assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 143)
        assert not (tmp_path / "probes").exists()
    assert "To resume, run the same command:" in errors


def test_the_list_of_studies_has_the_probes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "120")  # no cell is broken
    measure(
        NORMS, NORMS.trials(seeds=[1], recipe={"epochs": 1})[0].config, tmp_path, CPU
    )  # another number of epochs
    assert manage.GROUP.main(["list", "--out", str(tmp_path)], standalone_mode=False) == 0
    text = capsys.readouterr().out
    assert (
        "activation_norms" in text
        and "Figure 2" in text
        and "0/3" in text
        and "covariance_heatmap" in text
    )


# ---------------------------------------------------------------------- Remark 5.6


def diagnose(root: Path, trial, residuals: list[float | None]) -> None:
    """Diagnostics of a trial: a layer each, in two epochs."""
    rows = [
        {"epoch": epoch, "layer": str(layer), "residual": residual, "stable_rank": 1.0}
        for epoch in range(2)
        for layer, residual in enumerate(residuals)
    ]
    rows.append({"epoch": 0, "layer": "unseen", "residual": None, "stable_rank": None})
    append_lines(trial_folder(root, trial.config.trial_key) / "diagnostics.jsonl", rows)


def test_the_residual_of_a_trial_is_its_mean_over_layers_and_epochs(tmp_path: Path):
    """A layer that is kept exactly counts with 0, one that saw nothing does not; others' trials are left out."""
    figure, trials = ResidualFigure(optimizers=("nysact-g", "nysact-s")), planned(seeds=2)
    sketched = [trial for trial in trials if trial.arm.factors]
    for trial in trials:
        run(tmp_path, trial, status="diverged" if trial is sketched[-1] else "completed")
    for number, trial in enumerate(sketched[:-3]):
        diagnose(tmp_path, trial, [0.1 * number, None])
    seen = evidence(tmp_path, trials)
    part = figure.extend(plan(tmp_path, trials), seen)
    table = residual_table(seen.frame, figure.optimizers, tmp_path)
    assert part.files == {"residual.csv": table.to_csv(index=False)}
    assert len(table) == len(sketched) - 1
    assert list(table["residual"])[:-2] == pytest.approx(
        [0.05 * number for number in range(len(sketched) - 3)]
    )
    assert all(math.isnan(value) for value in list(table["residual"])[-2:])
    assert list(table["train/loss"]) == [0.5] * len(table)
    assert [path.name for path in part.drawn] == ["residual.pdf", "residual.png", "residual.svg"]
    title = f"{len(sketched) - 3} of {len(sketched) - 1} completed trials have diagnostics"
    assert title in part.drawn[2].read_text()


def test_the_order_is_taken_within_each_seed():
    """A seed that is better throughout must not hide that its loss falls with the rank."""
    rows = [
        {
            "optimizer": name,
            "seed": seed,
            "rank": rank,
            "residual": 1 / rank + 0.1 * seed,
            "loss": 1 / rank - 9 * seed,
        }
        for name in ("a", "b")
        for seed in range(2)
        for rank in (5, 10, 20)
    ]
    table = pd.DataFrame(rows)
    table.loc[table["optimizer"] == "b", "loss"] = 1.0
    assert order(table, "a", "loss") == pytest.approx(1)
    assert math.isnan(order(table, "b", "loss")) and math.isnan(
        order(table[table["rank"] > 5], "a", "loss")
    )


def test_without_diagnostics_there_is_no_residual_figure(tmp_path: Path):
    trials = planned(seeds=1)
    for trial in trials:
        run(tmp_path, trial)
    part = ResidualFigure(optimizers=("nysact-s",)).extend(
        plan(tmp_path, trials), evidence(tmp_path, trials)
    )
    assert part == Extension()
    assert STUDY.further
