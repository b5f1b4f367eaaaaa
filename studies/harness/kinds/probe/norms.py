"""The measurement of `activation_norms`: norms of the covariances that an optimizer receives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

import precond
from precond.layers import find_layers
from studies.harness.evidence.metrics import number
from studies.harness.kinds.probe.execute import Epochs
from studies.harness.kinds.probe.folder import Arrays, Result
from studies.harness.kinds.probe.probe import Norms
from studies.harness.report.document import Block, Table, Text
from studies.harness.report.figures.probes import draw_norms
from trainables.train import Trainer

GROWTH = 0.1  # a mean norm with a larger growth over the last tenth of training is not bounded yet


def model_problems(parameters: Norms, model: nn.Module) -> list[str]:
    """Return nothing: there are no parameters."""
    return []


def measure(parameters: Norms, trainer: Trainer, epochs: Epochs) -> Arrays:
    """Record the norms of every step; they are copied from the device once an epoch.

    Returns:
        `layers` (names), `convolution` (bool) and `inputs` (p) of n layers, where each group of a convolution counts as
        a layer; `norms [steps, n]`.
    """
    layers = find_layers(trainer.model)
    missing = {
        layer.name: torch.full((layer.groups,), torch.nan, device=trainer.device)
        for layer in layers
    }
    steps: list[Tensor] = []
    read: list[np.ndarray] = []
    with precond.observe(trainer.model) as seen:

        def note(*_: Any) -> None:
            norms = {**missing, **seen.norms()}
            steps.append(torch.cat([norms[layer.name] for layer in layers]))
            seen.reset()

        handle = trainer.optimizer.register_step_post_hook(note)
        for _ in epochs:
            read.append(torch.stack(steps).cpu().numpy())
            steps.clear()
        handle.remove()
    norms = np.concatenate(read)
    slots = [(name, layer) for layer in layers for name in layer.slot_names]
    kept = ~np.isnan(norms).all(0)  # a layer can have a forward that is never called
    return {
        "layers": np.array([name for name, _ in slots])[kept],
        "convolution": np.array([isinstance(layer.module, nn.Conv2d) for _, layer in slots])[kept],
        "inputs": np.array([layer.shape.d_in for _, layer in slots])[kept],
        "norms": norms[:, kept],
    }


def numbers(parameters: Norms, results: Sequence[Result]) -> pd.DataFrame:
    """Return the first, last, smallest and largest norm of each seed and layer, and the growth at the end.

    `growth` is the mean over the last tenth of the steps divided by the mean over the tenth before, minus 1.
    """
    return pd.DataFrame([row for result in results for row in _rows(result)])


def blocks(parameters: Norms, numbers: Any) -> list[Block]:
    """Return the table of each layer's bounds over all networks, and the layers whose norms still grow."""
    header = [
        "layer",
        "kind",
        "p",
        "first",
        "smallest",
        "largest",
        "last",
        "largest / smallest",
        "growth at end",
    ]
    layers = [rows for _, rows in numbers.groupby("layer", sort=False)]
    names = [str(rows["layer"].iloc[0]) for rows in layers]
    growing = [
        name for name, rows in zip(names, layers, strict=True) if rows["growth"].mean() > GROWTH
    ]
    zero = [
        name for name, rows in zip(names, layers, strict=True) if not rows["smallest"].min() > 0
    ]
    verdict = (
        f"{len(growing)} of {len(layers)} layers still grow by more than {GROWTH:.0%} over the last tenth of "
        f"training{_listed(growing)}; the norm of {len(zero)} reached zero{_listed(zero)}."
    )
    note = (
        f"Frobenius norm of (1/N) sum a a^T over the rows a of one training batch, at every step of "
        f"{numbers['seed'].nunique()} networks: smallest and largest over all steps and networks, first and last "
        "as means over networks. Growth at end: mean over the last tenth of the steps over that of the tenth "
        "before, less one."
    )
    caption = "Frobenius norm of the activation covariance during training."
    rows = [_cells(rows) for rows in layers]
    table = Table(name="norms", header=header, rows=rows, text=(0, 1), caption=caption)
    return [Text(verdict, label="Verdict", finding=True), table, Text(note, note=True)]


def metrics(numbers: Any) -> dict[str, float]:
    """Return the means over networks as `smallest/LAYER`, `largest/LAYER` and `growth/LAYER`."""
    means = numbers.groupby("layer", sort=False)[["smallest", "largest", "growth"]].mean()
    return {
        f"{name}/{layer}": float(row[name])
        for layer, row in means.iterrows()
        for name in means.columns
    }


def draw(results: Sequence[Result], folder: Path) -> list[Path]:
    """Draw the norms over the steps, convolutions on the left and linear layers on the right."""
    return draw_norms([result.arrays for result in results], folder)


def _rows(result: Result) -> list[dict[str, Any]]:
    arrays, rows = result.arrays, []
    for i, layer in enumerate(arrays["layers"]):
        norms = arrays["norms"][:, i].astype(float)
        norms = norms[~np.isnan(norms)]
        tenth = max(1, len(norms) // 10)
        late, before = norms[-tenth:].mean(), norms[-2 * tenth : -tenth].sum() / tenth
        kind = "convolution" if arrays["convolution"][i] else "linear"
        identity = {
            "seed": result.seed,
            "layer": str(layer),
            "kind": kind,
            "inputs": int(arrays["inputs"][i]),
        }
        bounds = {
            "first": norms[0],
            "smallest": norms.min(),
            "largest": norms.max(),
            "last": norms[-1],
        }
        rows.append({**identity, **bounds, "growth": late / before - 1 if before > 0 else np.nan})
    return rows


def _cells(rows: Any) -> list[str]:
    smallest, largest = rows["smallest"].min(), rows["largest"].max()
    bounds = [rows["first"].mean(), smallest, largest, rows["last"].mean()]
    ratio = f"{largest / smallest:.2f}" if smallest > 0 else "-"
    identity = [str(rows.iloc[0][name]) for name in ("layer", "kind", "inputs")]
    return [
        *identity,
        *(f"{value:#.4g}" for value in bounds),
        ratio,
        number(rows["growth"].mean(), "+.1%"),
    ]


def _listed(names: Sequence[str]) -> str:
    return f" ({', '.join(names)})" if names else ""
