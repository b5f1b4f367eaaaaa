"""The measurement of `activation_norms`: the norms of the activation covariances.

The covariance of a layer is (1/N) sum a a^T over the N rows a that an optimizer receives in a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

import precond
from precond.counts import counted
from precond.layers import find_layers
from studies.harness.evidence.metrics import number
from studies.harness.kinds.probe.execute import Epochs
from studies.harness.kinds.probe.folder import Arrays, Result
from studies.harness.kinds.probe.probe import Norms
from studies.harness.report.document import Block, Table, Text
from studies.harness.report.figures.probes import draw_norms
from trainables.train import Trainer

METRIC = "frobenius_norm"  # the metric of the claims
GROWTH = 0.1  # the report lists the layers whose norms grow more in the last tenth of the training


def model_problems(parameters: Norms, model: nn.Module) -> list[str]:
    """Return no errors, because the measurement has no parameters."""
    return []


def measure(parameters: Norms, trainer: Trainer, epochs: Epochs) -> Arrays:
    """Train for all epochs, and return the norms of every step.

    Returns:
        The arrays by name. `layers` (names), `convolution` (bool) and `inputs` (p) describe the n
        layers, where each group of a convolution counts as a layer. `norms [steps, n]` are the
        norms; nan where a step did not call the layer.
    """
    layers, _ = find_layers(trainer.model)
    missing = {
        layer.name: torch.full((layer.groups,), torch.nan, device=trainer.device)
        for layer in layers
    }
    steps: list[Tensor] = []
    by_epoch: list[np.ndarray] = []
    with precond.observe(trainer.model) as observer:

        def record(*_: Any) -> None:
            norms = {**missing, **observer.norms()}
            steps.append(torch.cat([norms[layer.name] for layer in layers]))
            observer.reset()

        handle = trainer.optimizer.register_step_post_hook(record)
        for _ in epochs:  # copying to the CPU once per epoch avoids a synchronization in each step
            by_epoch.append(torch.stack(steps).cpu().numpy())
            steps.clear()
        handle.remove()
    norms = np.concatenate(by_epoch)
    slots = [(name, layer) for layer in layers for name in layer.slot_names]
    called = ~np.isnan(norms).all(0)  # a model may contain a layer that it never calls
    convolution = [isinstance(layer.module, nn.Conv2d) for _, layer in slots]
    return {
        "layers": np.array([name for name, _ in slots])[called],
        "convolution": np.array(convolution)[called],
        "inputs": np.array([layer.shape.d_in for _, layer in slots])[called],
        "norms": norms[:, called],
    }


def numbers(parameters: Norms, results: Sequence[Result]) -> pd.DataFrame:
    """Return a row for each seed and layer: first, last, smallest and largest norm, and growth.

    `last_tenth` is the mean norm over the last tenth of the steps, `previous_tenth` that over the
    tenth before it, and `growth` their ratio minus 1.
    """
    return pd.DataFrame([row for result in results for row in _rows(result)])


def labels(layers: Sequence[str]) -> list[str]:
    """Return the labels of the arms that claims compare: the norm of each layer in two periods."""
    periods = ("previous", "last")
    return [f"layer {layer} in the {period} tenth" for period in periods for layer in layers]


def values(parameters: Norms, numbers: Any, diverged: Sequence[int]) -> pd.DataFrame:
    """Return the values that claims compare: a row for each seed, a column for each of `labels`.

    The norms of a network that diverged are infinite in the last tenth, and 0 in the previous one.
    """
    layers = list(dict.fromkeys(numbers["layer"]))
    table = numbers.pivot(index="seed", columns="layer", values=["previous_tenth", "last_tenth"])
    table = table.reindex(columns=layers, level="layer").set_axis(labels(layers), axis="columns")
    worst = [0.0] * len(layers) + [np.inf] * len(layers)
    return pd.concat([table, pd.DataFrame(dict.fromkeys(diverged, worst), table.columns).T])


def blocks(parameters: Norms, numbers: Any) -> list[Block]:
    """Return a sentence on the layers whose norms grow or reach zero, and a table of all layers."""
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
    named = list(zip(names, layers, strict=True))
    growing = [name for name, rows in named if rows["growth"].mean() > GROWTH]
    zero = [name for name, rows in named if not rows["smallest"].min() > 0]
    sentence = (
        f"The norms of {len(growing)} of {counted(len(layers), 'layer')} still grow by more than "
        f"{GROWTH:.0%} over the last tenth of the training{_in_parentheses(growing)}. The norms "
        f"of {counted(len(zero), 'layer')} reached zero{_in_parentheses(zero)}."
    )
    note = (
        "Frobenius norm of (1/N) sum a a^T over the rows a of a training batch, at every step of "
        f"{counted(numbers['seed'].nunique(), 'network')}. Smallest and largest: over all steps and "
        "networks. First and last: means over the networks. Growth at end: the mean over the "
        "last tenth of the steps, divided by the mean over the previous tenth, minus 1."
    )
    caption = "Frobenius norm of the activation covariance during training."
    rows = [_cells(rows) for rows in layers]
    table = Table(name="norms", header=header, rows=rows, text=(0, 1), caption=caption)
    return [Text(sentence, label="Layers", finding=True), table, Text(note, note=True)]


def metrics(numbers: Any) -> dict[str, float]:
    """Return the means over networks as `smallest/LAYER`, `largest/LAYER` and `growth/LAYER`."""
    means = numbers.groupby("layer", sort=False)[["smallest", "largest", "growth"]].mean()
    return {
        f"{name}/{layer}": float(row[name])
        for layer, row in means.iterrows()
        for name in means.columns
    }


def draw(results: Sequence[Result], folder: Path) -> list[Path]:
    """Draw the norms over the steps: convolutions on the left, linear layers on the right."""
    return draw_norms([result.arrays for result in results], folder)


def _rows(result: Result) -> list[dict[str, Any]]:
    arrays, rows = result.arrays, []
    for i, layer in enumerate(arrays["layers"]):
        norms = arrays["norms"][:, i].astype(float)
        norms = norms[~np.isnan(norms)]
        tenth = max(1, len(norms) // 10)
        late, before = norms[-tenth:].mean(), norms[-2 * tenth : -tenth].sum() / tenth
        rows.append(
            {
                "seed": result.seed,
                "layer": str(layer),
                "kind": "convolution" if arrays["convolution"][i] else "linear",
                "inputs": int(arrays["inputs"][i]),
                "first": norms[0],
                "smallest": norms.min(),
                "largest": norms.max(),
                "last": norms[-1],
                "previous_tenth": before,
                "last_tenth": late,
                "growth": late / before - 1 if before > 0 else np.nan,
            }
        )
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


def _in_parentheses(names: Sequence[str]) -> str:
    return f" ({', '.join(names)})" if names else ""
