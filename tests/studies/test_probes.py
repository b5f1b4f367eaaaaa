"""Probes: measurements against float64 references, result folders and commands.

The last tests are of the figure that tests Remark 5.6 of the NysAct paper."""

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
from folders import evidence, plan, planned, write_trial
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
from studies.harness.kinds.study.residuals import mean_correlation, residual_table
from studies.harness.report.figures.probes import draw_covariances, draw_norms
from trainables.config import stream_seed
from trainables.files import append_lines
from trainables.store import StoreError, trial_folder
from trainables.train import Trainer

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
COLUMN, GAUSSIAN, _ = APPROXIMATIONS


def covariance(width: int, seed: int = 0, decay: float = 1.0) -> Tensor:
    """Return a matrix `[1, width, width]` in float64 with the eigenvalues k^-decay."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64)).Q
    eigenvalues = torch.arange(1.0, width + 1, dtype=torch.float64) ** -decay
    return ((basis * eigenvalues) @ basis.T).unsqueeze(0)


def completed_result(arrays: dict, seed: int = 0) -> Result:
    return Result(seed, {"status": "completed", "metrics": {"test/accuracy": 0.9}}, arrays)


# ---------------------------------------------------------------------- covariances


def test_column_sketch_errors_equal_a_direct_computation_of_the_nystrom_approximation():
    a = covariance(40)[0]
    arrays = covariances.arrays(Covariances(rank=6, draws=3), {"layer": a.unsqueeze(0)}, seed=5)
    for draw in range(3):
        columns = ColumnSketch.draw([f"layer#{draw}"], 40, 6, 5, a).columns[0]
        c = a[:, columns]
        nystrom = c @ torch.linalg.pinv(c[columns], hermitian=True) @ c.T
        error = a - nystrom
        frobenius = torch.linalg.matrix_norm(error) / torch.linalg.matrix_norm(a)
        spectral = torch.linalg.matrix_norm(error, 2) / torch.linalg.matrix_norm(a, 2)
        assert arrays["frobenius"][0, 0, draw] == pytest.approx(frobenius.item(), rel=1e-6)
        assert arrays["spectral"][0, 0, draw] == pytest.approx(spectral.item(), rel=1e-6)
    assert len(set(arrays["frobenius"][0, 1])) == 3  # the three draws differ


def test_error_of_the_best_approximation_is_the_tail_of_the_spectrum():
    arrays = covariances.arrays(Covariances(rank=6, draws=4), {"layer": covariance(40)}, seed=0)
    values = torch.arange(1.0, 41, dtype=torch.float64) ** -1
    floor = values[6:].square().sum().sqrt() / values.square().sum().sqrt()
    assert arrays["frobenius"][0, 2] == pytest.approx([floor.item()] * 4, rel=1e-9)
    assert arrays["spectral"][0, 2] == pytest.approx([values[6].item()] * 4, rel=1e-9)
    for norm in ("frobenius", "spectral"):
        assert (arrays[norm][0, :2] >= arrays[norm][0, 2:] * (1 - 1e-9)).all()


def test_matrices_in_the_figure_have_the_reported_errors():
    """The figure shows the last layer of each of the three largest widths above the rank.

    Layers 2, 3 and 5 have the widths 20, 30 and 12.
    """
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
    # A layer with at most `rank` inputs has no error.
    assert arrays["frobenius"][0] == pytest.approx(0, abs=1e-12)
    for number in (2, 3, 5):
        actual = arrays[f"actual/{number}"]
        for k, kind in enumerate(APPROXIMATIONS):
            difference = actual - approximate(arrays, kind, number)
            error = np.linalg.norm(difference) / np.linalg.norm(actual)
            assert error == pytest.approx(arrays["frobenius"][number, k, 0], rel=1e-4)


def test_low_rank_covariance_has_no_error_and_the_error_of_a_zero_covariance_is_nan():
    root = torch.randn(30, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    stacks = {"low": (root @ root.T).unsqueeze(0), "dead": torch.zeros(1, 30, 30)}
    arrays = covariances.arrays(Covariances(rank=4, draws=3), stacks, seed=0)
    assert arrays["frobenius"][0].max() < 1e-6
    assert np.isnan(arrays["frobenius"][1]).all()
    parameters = replace(HEATMAP.measurement, draws=3)
    numbers = covariances.numbers(parameters, [completed_result(arrays)])
    assert "In 0 of 2 layers" in covariances.blocks(parameters, numbers)[0].text


def test_verdict_names_the_layers_with_large_errors():
    stacks = {"flat": covariance(40, decay=0.0), "low": covariance(40, 1, 3)}
    arrays = covariances.arrays(Covariances(rank=2, draws=10), stacks, 0)
    numbers = covariances.numbers(HEATMAP.measurement, [completed_result(arrays)])
    text = covariances.blocks(HEATMAP.measurement, numbers)[0].text
    assert text == (
        "In 1 of 2 layers, the column sketch has a mean relative Frobenius error above 0.5: flat."
    )


# ---------------------------------------------------------------------- measured training


def patches(x: Tensor) -> Tensor:
    """Return the input patches of a 3 x 3 convolution with padding 1 as rows, in float64."""
    return F.unfold(x.double(), 3, padding=1).transpose(1, 2).flatten(0, 1)


class Inputs:
    """The training inputs of the first and the last layer of digits/cnn, recorded by hooks."""

    def __init__(self, model: nn.Module):
        self.first: list[Tensor] = []
        self.last: list[Tensor] = []
        for module, inputs in ((model[0], self.first), (model[10], self.last)):
            module.register_forward_hook(self._recorder(inputs))

    def _recorder(self, inputs: list[Tensor]):
        def record(module, args, output) -> None:
            if module.training:
                inputs.append(args[0].detach().clone())

        return record


@pytest.fixture
def inputs(monkeypatch: pytest.MonkeyPatch) -> list[Inputs]:
    """The inputs of each network that the test trains."""
    networks: list[Inputs] = []
    init = Trainer.__init__

    def init_with_hooks(self, *args, **kwargs):
        init(self, *args, **kwargs)
        networks.append(Inputs(self.model))

    monkeypatch.setattr(Trainer, "__init__", init_with_hooks)
    return networks


def trial_config(probe: Probe, **recipe):
    return probe.trials("digits/cnn", [0], {"epochs": 2, "batch_size": 256, **recipe})[0].config


def test_heatmap_uses_the_training_batches_of_the_last_epoch(tmp_path: Path, inputs: list[Inputs]):
    probe = replace(HEATMAP, measurement=Covariances(rank=5, draws=1))
    arrays = measure(probe, trial_config(probe), tmp_path, CPU).arrays
    [recorded] = inputs
    steps = len(recorded.first) // 2
    first = torch.cat([patches(x) for x in recorded.first[steps:]])
    last = torch.cat([x.double() for x in recorded.last[steps:]])
    last = torch.cat([last, torch.ones(len(last), 1)], 1)
    assert list(arrays["inputs"]) == [9, 144, 288, 513]
    expected = (last.T @ last / len(last)).numpy()
    np.testing.assert_allclose(arrays["actual/3"], expected, rtol=1e-4, atol=1e-5 * expected.max())
    a = (first.T @ first / len(first)).unsqueeze(0)
    reference = covariances.arrays(probe.measurement, {"0": a}, stream_seed(0, "optimizer"))
    assert arrays["frobenius"][0, 0, 0] == pytest.approx(reference["frobenius"][0, 0, 0], rel=1e-3)


def test_norms_are_measured_at_every_step(tmp_path: Path, inputs: list[Inputs]):
    arrays = measure(NORMS, trial_config(NORMS), tmp_path, CPU).arrays
    [recorded] = inputs
    assert arrays["norms"].shape == (len(recorded.first), 4)
    assert list(arrays["convolution"]) == [True, True, True, False]
    for step, (x, y) in enumerate(zip(recorded.first, recorded.last, strict=True)):
        y = torch.cat([y.double(), torch.ones(len(y), 1)], 1)
        for column, rows in ((0, patches(x)), (3, y)):
            norm = torch.linalg.matrix_norm(rows.T @ rows / len(rows))
            assert arrays["norms"][step, column] == pytest.approx(norm.item(), rel=1e-4)


def test_measuring_does_not_change_the_training(tmp_path: Path):
    plain = Trainer(trial_config(NORMS), CPU)
    expected = [plain.run_epoch(epoch)["train/loss"] for epoch in range(2)]
    for probe in (NORMS, replace(HEATMAP, measurement=Covariances(rank=5, draws=1))):
        losses: list[float] = []

        def record(epoch: int, metrics, losses: list[float] = losses) -> None:
            losses.append(metrics["train/loss"])

        measure(probe, trial_config(probe), tmp_path, CPU, record)
        assert losses == expected


def norm_arrays(values: np.ndarray) -> dict:
    layers = np.array([f"layer{i}" for i in range(values.shape[1])])
    kinds = np.arange(values.shape[1]) < 2
    return {
        "layers": layers,
        "convolution": kinds,
        "inputs": np.full(len(layers), 9),
        "norms": values,
    }


def test_sentence_names_layers_whose_norms_grow_or_are_zero():
    steps = np.linspace(0, 1, 100)
    values = np.stack([np.ones(100), 1 + 10 * steps**4, np.maximum(1 - 2 * steps, 0)], 1)
    numbers = norms_code.numbers(NORMS.measurement, [completed_result(norm_arrays(values))])
    assert list(numbers["smallest"]) == [1, 1, 0]
    assert list(numbers["largest"]) == [1, 11, 1]
    growth = values[90:, 1].mean() / values[80:90, 1].mean() - 1
    assert numbers["growth"][1] == pytest.approx(growth) and growth > GROWTH
    text = norms_code.blocks(NORMS.measurement, numbers)[0].text
    assert "norms of 1 of 3 layers still grow" in text and "(layer1)" in text
    assert "norms of 1 layer reached zero (layer2)" in text


def test_figures_with_many_layers_or_without_layers_are_drawn(tmp_path: Path):
    values = np.exp(np.random.default_rng(0).normal(size=(1000, 12)))
    many = norm_arrays(values) | {"convolution": np.ones(12, dtype=bool)}
    assert [path.suffix for path in draw_norms([many, many], tmp_path)] == [".pdf", ".png", ".svg"]
    assert (tmp_path / "norms.svg").stat().st_size < 500_000
    assert draw_covariances({"shown": np.array([], dtype=np.int64)}, APPROXIMATIONS, tmp_path) == []


# ---------------------------------------------------------------------- folders


def test_result_is_identified_by_measurement_parameters_and_trial(tmp_path: Path):
    config = trial_config(NORMS, epochs=1)
    assert folder.read(NORMS, config, tmp_path) is None
    written = measure(NORMS, config, tmp_path, CPU)
    read = folder.read(NORMS, config, tmp_path)
    assert read is not None and read == replace(written, arrays=read.arrays)
    assert all(np.array_equal(array, read.arrays[name]) for name, array in written.arrays.items())
    assert folder.read(NORMS, config.with_seed(1), tmp_path) is None
    other_rank = replace(HEATMAP, measurement=Covariances(rank=3))
    assert len({folder.key(probe, config) for probe in (NORMS, HEATMAP, other_rank)}) == 3


def test_kill_while_writing_leaves_no_partial_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """After a kill during any write, no result exists; the next write succeeds."""
    config, arrays = trial_config(NORMS), {"norms": np.arange(3.0)}
    result_folder, calls = folder.probe_folder(tmp_path, folder.key(NORMS, config)), 0

    def interrupt_after(successes: int):
        nonlocal calls
        calls = 0

        def interrupted(*_):
            nonlocal calls
            calls += 1
            if calls > successes:
                raise KeyboardInterrupt

        return interrupted

    for successes in range(4):
        monkeypatch.setattr(folder, "sync", interrupt_after(successes))
        monkeypatch.setattr(folder, "sync_directory", folder.sync)
        with pytest.raises(KeyboardInterrupt):
            folder.write(NORMS, config, tmp_path, {"status": "completed"}, arrays)
        assert not result_folder.exists()
    monkeypatch.undo()
    folder.write(NORMS, config, tmp_path, {"status": "completed"}, arrays)
    files = {path.name for path in result_folder.iterdir()}
    assert files == {"config.json", "status.json", "arrays.npz"}
    assert list(result_folder.parent.iterdir()) == [result_folder]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_damaged_result_is_an_error_with_advice(tmp_path: Path, damage: str):
    config = trial_config(NORMS, epochs=1)
    measure(NORMS, config, tmp_path, CPU)
    path = folder.probe_folder(tmp_path, folder.key(NORMS, config)) / "arrays.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content[:-50] if damage == "truncated" else content)
    if damage == "missing":
        path.unlink()
    with pytest.raises(StoreError, match=r"damaged.*remove it and run again"):
        folder.read(NORMS, config, tmp_path)


def test_newer_schema_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = trial_config(NORMS, epochs=1)
    measure(NORMS, config, tmp_path, CPU)
    monkeypatch.setattr(folder, "SCHEMA", 0)
    with pytest.raises(StoreError, match="schema 1, this version reads up to 0"):
        folder.read(NORMS, config, tmp_path)


# ---------------------------------------------------------------------- the command line


def run_command(probe: Probe, tmp_path: Path, *arguments: str) -> int:
    """Run the command of a probe in this process and return its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setenv("PRECOND_DATA", "data")  # the option --data-dir changes this variable
        patch.setattr(sys, "argv", [f"{probe.name}.py", *arguments])
        before = signal.getsignal(signal.SIGTERM)
        with pytest.raises(SystemExit) as exit_:
            main(probe)
        signal.signal(signal.SIGTERM, before)
    return int(exit_.value.code or 0)


@pytest.mark.parametrize("probe", [HEATMAP, NORMS], ids=lambda probe: probe.name)
def test_smoke_run_writes_a_report_and_a_second_run_trains_nothing(
    probe: Probe,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    assert run_command(probe, tmp_path, "--smoke", "--tracking-uri", "none") == 0
    assert "0 done, 2 to go" in capsys.readouterr().out
    reports = tmp_path / "outputs" / "smoke" / "reports" / probe.name / "digits-cnn"
    first = {path.name: path.read_bytes() for path in reports.glob("[!.]*")}
    stem = "covariances" if probe is HEATMAP else "norms"
    figure = {f"{stem}.{suffix}" for suffix in ("pdf", "png", "svg")}
    tables = {"claims.csv", "numbers.csv"}
    assert set(first) == {"report.md", "report.html", "report.tex", *tables, *figure}
    text = first["report.md"].decode()
    assert probe.citation in text and probe.papers_command in text
    assert "2 of 2 completed; test accuracy" in text and "**Layers.**" in text
    assert b"<img" in first["report.html"]
    monkeypatch.setattr(execute, "Trainer", None)
    assert run_command(probe, tmp_path, "--smoke", "--tracking-uri", "none") == 0
    assert "2 done, 0 to go" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in reports.glob("[!.]*")} == first


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
            ["rank = 514: the widest layer (10) has 513 inputs (bias included), use 1..513"],
        ),
        (("--set", "rnk=3"), ['--set rnk: unknown. Did you mean "rank"?']),
        (("--set", "lr=-1"), ["lr = -1: must be"]),
        (
            ("--set", "compile=true"),
            ["compile = True: a probe cannot measure a compiled model; remove this option"],
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
def test_invalid_command_has_a_line_for_each_error_and_writes_nothing(
    arguments: tuple[str, ...], lines: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert run_command(HEATMAP, tmp_path, *arguments) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == len(lines) and all(error.startswith("error: ") for error in errors)
    for line in lines:
        assert any(line in error for error in errors), errors
    assert list(tmp_path.iterdir()) == []


def test_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = ("--dry-run", "--seeds", "4,7", "--workload", "cifar10/lenet5")
    assert run_command(NORMS, tmp_path, *arguments) == 0
    # The paper's number of epochs replaces the recipe's.
    assert "2 networks (sgd, 100 epochs): 0 done, 2 to go" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_diverged_network_is_a_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = "--smoke --set lr=1e12 --set batch_size=256 --seeds 1 --tracking-uri none"
    for done in (0, 1):
        assert run_command(NORMS, tmp_path, *arguments.split()) == 0
        assert f"{done} done, {1 - done} to go" in capsys.readouterr().out
    report = next(tmp_path.rglob("report.md")).read_text()
    assert "1 of 1 diverged. seed 0: loss = " in report and "![" not in report


def test_report_only_reports_missing_networks(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run_command(NORMS, tmp_path, "--smoke", "--report-only", "--tracking-uri", "none") == 0
    assert "2 networks (sgd, 2 epochs): 0 done, 2 to go" in capsys.readouterr().out
    assert "2 of 2 not run." in next(tmp_path.rglob("report.md")).read_text()
    assert not (tmp_path / "outputs" / "smoke" / "probes").exists()


def test_mlflow_has_a_run_with_the_figure_and_the_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    import mlflow

    arguments = "--smoke --seeds 1 --set batch_size=256"
    for _ in range(2):
        assert run_command(NORMS, tmp_path, *arguments.split()) == 0
        assert "tracking failed" not in capsys.readouterr().out
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/outputs/smoke/mlflow.db")
    experiment = client.get_experiment_by_name("activation_norms-smoke")
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id])
    metrics, layers = ("smallest", "largest", "growth"), ("0", "3", "6", "10")
    assert set(run.data.metrics) == {f"{name}/{layer}" for name in metrics for layer in layers}
    assert run.data.params["optimizer"] == "sgd" and run.info.status == "FINISHED"
    artifacts = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    assert artifacts >= {"norms.png", "report.html"}


def test_json_prints_only_the_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = "--smoke --seeds 1 --set batch_size=256 --json --tracking-uri none"
    assert run_command(NORMS, tmp_path, *arguments.split()) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["probe"] == "activation_norms" and len(document["numbers"]) == 4


def test_killed_probe_leaves_no_result(tmp_path: Path):
    """Neither SIGKILL nor SIGTERM leaves a result. After SIGTERM, the command prints advice."""
    code = "from studies.activation_norms import PROBE, main; main(PROBE)"
    flags = ["--out", str(tmp_path), "--tracking-uri", "none", "--seeds", "1"]
    arguments = [sys.executable, "-c", code, *flags]
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


def test_list_of_studies_contains_the_probes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "120")  # wide enough for all cells
    # A result with another number of epochs does not count.
    [network] = NORMS.trials(seeds=[1], recipe={"epochs": 1})
    measure(NORMS, network.config, tmp_path, CPU)
    assert manage.GROUP.main(["list", "--out", str(tmp_path)], standalone_mode=False) == 0
    text = capsys.readouterr().out
    for cell in ("activation_norms", "Figure 2", "0/3", "covariance_heatmap"):
        assert cell in text


# ---------------------------------------------------------------------- the figure of Remark 5.6


def write_diagnostics(root: Path, trial, residuals: list[float | None]) -> None:
    """Write the diagnostics of a trial: two epochs, with a layer for each residual."""
    rows = [
        {"epoch": epoch, "layer": str(layer), "residual": residual, "stable_rank": 1.0}
        for epoch in range(2)
        for layer, residual in enumerate(residuals)
    ]
    rows.append({"epoch": 0, "layer": "uncalled", "residual": None, "stable_rank": None})
    append_lines(trial_folder(root, trial.config.trial_key) / "diagnostics.jsonl", rows)


def test_residual_of_a_trial_is_the_mean_over_layers_and_epochs(tmp_path: Path):
    """A layer with an exact covariance counts as 0; a layer without inputs is not in the mean."""
    figure, trials = ResidualFigure(optimizers=("nysact-g", "nysact-s")), planned(seeds=2)
    sketched = [trial for trial in trials if trial.arm.factors]
    for trial in trials:
        write_trial(tmp_path, trial, status="diverged" if trial is sketched[-1] else "completed")
    for number, trial in enumerate(sketched[:-3]):
        write_diagnostics(tmp_path, trial, [0.1 * number, None])
    analysed = evidence(tmp_path, trials)
    part = figure.extend(plan(tmp_path, trials), analysed)
    table = residual_table(analysed.frame, figure.optimizers, tmp_path)
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


def test_rank_correlation_is_computed_for_each_seed():
    """Within a seed, the loss rises with the residual; over both seeds, it would fall."""
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
    assert mean_correlation(table, "a", "loss") == pytest.approx(1)
    assert math.isnan(mean_correlation(table, "b", "loss"))
    assert math.isnan(mean_correlation(table[table["rank"] > 5], "a", "loss"))


def test_residual_figure_requires_diagnostics(tmp_path: Path):
    trials = planned(seeds=1)
    for trial in trials:
        write_trial(tmp_path, trial)
    figure = ResidualFigure(optimizers=("nysact-s",))
    extension = figure.extend(plan(tmp_path, trials), evidence(tmp_path, trials))
    assert extension == Extension()
    assert STUDY.extra_figures
