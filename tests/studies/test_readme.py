"""The README's Python runs as it stands, its commands exist, and its tables are those that the code prints."""

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
    """What a reader has: a model, batches and a loss."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(64, 8, 8, generator=generator), torch.randint(10, (64,), generator=generator)
    return {"model": model, "batches": [one] * 12, "loss_function": F.cross_entropy}


def loss_of(values: dict[str, Any]) -> float:
    inputs, labels = next(iter(values["batches"]))
    with torch.no_grad():
        return F.cross_entropy(values["model"](inputs).float(), labels).item()


@pytest.mark.parametrize("first_line", ["import precond", "from accelerate import Accelerator"])
def test_a_training_loop_of_the_readme_trains(first_line):
    """In someone's own loop, and in Accelerate's."""
    import precond

    values = problem() | {"precond": precond}
    if "accelerate" in first_line:
        pytest.importorskip("accelerate", reason="in the extra `dev` only")
        values["batches"] = torch.utils.data.DataLoader(values["batches"], batch_size=None)
    before = loss_of(values)
    code = snippet(first_line)
    assert "optimizer.step()" in code
    exec(code, values)
    assert loss_of(values) < 0.9 * before


def test_the_map_of_studies_is_the_generated_one():
    table = README.partition("<!-- python -m studies list --markdown -->\n")[2].partition(
        "<!-- end of the"
    )[0]
    assert table.strip() == manage.markdown().strip(), "the README's map is out of date"


def test_the_study_of_the_readme_is_planned_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    code = snippet("# momentum.py")
    assert code.count("\n") < 20
    values: dict[str, Any] = {"__name__": "momentum"}
    exec(code, values)
    options = Options(
        smoke=True,
        report_only=True,
        tracking_uri="none",
        only={},
        levels={},
        settings={},
        out=tmp_path,
    )
    assert run([values["STUDY"]], options) == 0
    assert "6 trials (3 arms x 2 seeds)" in capsys.readouterr().out  # two of its levels, and SGD
    assert (tmp_path / "smoke/reports/momentum/digits-cnn/report.html").exists()


def commands() -> list[str]:
    """The README's command lines, those in sentences included."""
    lines = [line.strip() for line in README.splitlines() if line.startswith("    ")]
    return [*lines, *re.findall(r"`([^`\n]+)`", README)]


def test_the_commands_of_the_readme_exist_with_their_flags():
    """Files, targets of make, commands and flags; placeholders and all."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    kinds = {type(artefact) for artefact in manage.artefacts().values()}
    flags = {
        option
        for flag in [*FLAGS, *(f for kind in kinds for f in kind.FLAGS)]
        for option in flag.opts
    } | {"--help"}
    known, found = (
        {
            command: {o for p in c.params for o in p.opts}
            for command, c in manage.GROUP.commands.items()
        },
        0,
    )
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
        found += 1
    assert found > 20
