"""The README's Python runs as it stands."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

README = (Path(__file__).parents[1] / "README.md").read_text()


def snippet(first_line: str) -> str:
    """The indented block that begins so."""
    _, found, rest = README.partition(f"\n    {first_line}\n")
    assert found, f"the README has no block that begins with {first_line}"
    lines = []
    for line in rest.splitlines():
        if line and not line.startswith("    "):
            break
        lines.append(line)
    return textwrap.dedent("\n".join([f"    {first_line}", *lines]))


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
