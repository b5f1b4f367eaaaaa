"""The README's Python code runs, its commands exist, and its tables are up to date."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from readme import README, snippet
from torch import nn

from studies.harness.command import manage
from studies.harness.command.options import FLAGS
from studies.harness.command.run import run
from studies.harness.design.options import Options

ROOT = Path(__file__).parents[2]


def problem() -> dict[str, Any]:
    """Return the variables that the README's code expects: a model, batches and a loss."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(64, 8, 8, generator=generator)
    batch = images, torch.randint(10, (64,), generator=generator)
    return {"model": model, "batches": [batch] * 12, "loss_function": F.cross_entropy}


def loss_of(values: dict[str, Any]) -> float:
    inputs, labels = next(iter(values["batches"]))
    with torch.no_grad():
        return F.cross_entropy(values["model"](inputs).float(), labels).item()


@pytest.mark.parametrize("first_line", ["import precond", "from accelerate import Accelerator"])
def test_a_training_loop_of_the_readme_trains(first_line):
    """One is a custom loop, the other is Accelerate's."""
    import precond

    values = problem() | {"precond": precond}
    if "accelerate" in first_line:
        pytest.importorskip("accelerate", reason="accelerate is in the extra `dev`")
        values["batches"] = torch.utils.data.DataLoader(values["batches"], batch_size=None)
    before = loss_of(values)
    code = snippet(first_line)
    assert "optimizer.step()" in code
    exec(code, values)
    assert loss_of(values) < 0.9 * before


def test_readme_table_of_studies_is_up_to_date():
    after = README.partition("<!-- python -m studies list --markdown -->\n")[2]
    table = after.partition("<!-- end of the")[0]
    assert table.strip() == manage.markdown().strip(), (
        "run python -m studies list --markdown and copy the table to the README"
    )


def test_the_study_of_the_readme_is_planned_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    code = snippet("# momentum.py")
    assert code.count("\n") < 20
    values: dict[str, Any] = {"__name__": "momentum"}
    exec(code, values)
    options = Options(smoke=True, report_only=True, tracking_uri="none", out=tmp_path)
    assert run([values["STUDY"]], options) == 0
    assert "6 trials (3 arms x 2 seeds)" in capsys.readouterr().out  # two levels, and SGD
    assert (tmp_path / "smoke/reports/momentum/digits-cnn/report.html").exists()


def commands() -> list[str]:
    """Return the README's command lines, also those in sentences."""
    lines = [line.strip() for line in README.splitlines() if line.startswith("    ")]
    return [*lines, *re.findall(r"`([^`\n]+)`", README)]


def test_the_commands_of_the_readme_exist_with_their_flags():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    kinds = {type(artefact) for artefact in manage.artefacts().values()}
    params = [*FLAGS, *(flag for kind in kinds for flag in kind.FLAGS)]
    flags = {option for param in params for option in param.opts} | {"--help"}
    known = {
        name: {option for param in command.params for option in param.opts}
        for name, command in manage.GROUP.commands.items()
    }
    count = 0
    for command in (line.partition("#")[0] for line in commands()):
        if match := re.match(r"(?:UV_TORCH_BACKEND=cpu )?make ([a-z-]+)", command):
            assert match[1] in targets, command
        elif match := re.match(r"python (studies/\w+\.py)", command):
            assert (ROOT / match[1]).exists(), command
            assert set(re.findall(r"--[a-z-]+", command)) <= flags, command
        elif match := re.match(r"python -m studies ([a-z-]+)", command):
            assert set(re.findall(r"--[a-z-]+", command)) <= known[match[1]], command
        else:
            continue
        count += 1
    assert count > 20
