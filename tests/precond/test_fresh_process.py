"""With each optimizer, training resumes bitwise if a new process loads the state."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

import precond
from precond.registry import REGISTRY
from tests import closures

NAMES = [
    name for name, entry in REGISTRY.items() if entry.package is None or find_spec(entry.package)
]
BEFORE, AFTER = 7, 9


def train(name: str, saved: dict | None, count: int) -> tuple[dict, dict]:
    """Train a network from the start or from a state; return the states of model and optimizer."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 12), nn.Linear(12, 12)
    )
    intervals = {"cov_interval": 2, "inv_interval": 5, "basis_interval": 5, "interval": 5}
    known = {key: value for key, value in intervals.items() if key in precond.defaults(name)}
    optimizer = precond.build(name, model, **known)
    if saved is not None:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
    for number in range(count):
        batch = torch.Generator().manual_seed(number + (BEFORE if saved else 0))
        x, y = torch.randn(8, 1, 6, 6, generator=batch), torch.randint(12, (8,), generator=batch)
        optimizer.zero_grad()
        closures.classify(optimizer, model, x, y)
        optimizer.step()
    return model.state_dict(), optimizer.state_dict()


def resume(folder: Path) -> None:
    """Resume the training with each optimizer from the states in a folder, in the new process."""
    for name in NAMES:
        saved = torch.load(folder / f"{name}.pt", weights_only=True)
        torch.save(train(name, saved, AFTER)[0], folder / f"{name}-resumed.pt")


def test_training_resumes_bitwise_in_a_new_process(tmp_path: Path):
    assert len(NAMES) >= 6
    for name in NAMES:
        model, optimizer = train(name, None, BEFORE)
        torch.save({"model": model, "optimizer": optimizer}, tmp_path / f"{name}.pt")
    script = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import torch; torch.set_num_threads(1)\n"
        "from pathlib import Path; import test_fresh_process as t\n"
        f"t.resume(Path({str(tmp_path)!r}))"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=240)
    for name in NAMES:
        uninterrupted = train(name, None, BEFORE + AFTER)[0]
        resumed = torch.load(tmp_path / f"{name}-resumed.pt", weights_only=True)
        assert all(resumed[key].equal(value) for key, value in uninterrupted.items()), name
