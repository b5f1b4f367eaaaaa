"""The measurement of `covariance_heatmap`: activation covariances A and their approximations.

A is the mean of a a^T over the rows a that an optimizer receives: the inputs of a layer for the
training batches in training mode, with a last column of ones if the layer has a bias.
`precond.NysAct` computes the approximations from p rows whose covariance is A.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

import precond
from precond.algorithm import LayerShape, Signals
from precond.algorithms.nysact import NysAct
from precond.counts import counted
from precond.parts import linalg
from precond.parts.rows import LinearRows
from studies.harness.kinds.probe.execute import Epochs
from studies.harness.kinds.probe.folder import Arrays, Result
from studies.harness.kinds.probe.probe import Covariances
from studies.harness.report.document import Block, Table, Text
from studies.harness.report.figures.probes import draw_covariances
from trainables.config import stream_seed
from trainables.train import Trainer

SKETCHES = {"column sketch": "subcolumn", "Gaussian sketch": "gaussian"}
BEST = "best of rank r"
APPROXIMATIONS = (*SKETCHES, BEST)
SHOWN = 3  # maximum number of layers in the figure
METRIC = "relative_error"  # the metric of the claims
HALF = "half of the norm"  # an arm of the claims with a constant relative error of LARGE_ERROR
LARGE_ERROR = 0.5  # the report lists the layers in which the column sketch has a larger error


def model_problems(parameters: Covariances, model: nn.Module) -> list[str]:
    """Return an error if the rank exceeds the number of inputs of the widest layer."""
    return precond.check("nysact-s", {"rank": parameters.rank}, model)


def measure(parameters: Covariances, trainer: Trainer, epochs: Epochs) -> Arrays:
    """Train for all epochs, and return the arrays for the covariances of the last epoch."""
    for _ in islice(epochs, trainer.config.epochs - 1):
        pass
    with precond.observe(trainer.model) as observer:
        next(epochs)
    return arrays(parameters, observer.covariances(), stream_seed(trainer.config.seed, "optimizer"))


def arrays(parameters: Covariances, covariances: Mapping[str, Tensor], seed: int) -> Arrays:
    """Return the relative errors of all layers, and the matrices of the layers in the figure.

    Args:
        parameters: The rank and the number of draws.
        covariances: The covariances `[groups, p, p]` by layer.
        seed: The seed of the test matrices.

    Returns:
        The arrays by name. `layers` (names) and `inputs` (p) describe the n layers, where each
        group of a convolution counts as a layer. `frobenius` and `spectral`
        `[n, approximations, draws]` are the errors. `shown` contains the indices i of the layers in
        the figure. For each of them, `actual/i [p, p]` is A, and `root/APPROXIMATION/i [p, r]` is Y
        in the approximation Y Y^T of the first draw.
    """
    matrices = {
        name: a.double().cpu()
        for layer, stack in covariances.items()
        for name, a in _named(layer, stack)
    }
    names, figure_layers = list(matrices), _figure_layers(parameters, list(matrices.values()))
    contents: Arrays = {
        "layers": np.array(names),
        "inputs": np.array([len(a) for a in matrices.values()]),
        "shown": np.array(figure_layers, dtype=np.int64),
    }
    errors = []
    for number, (name, a) in enumerate(matrices.items()):
        drawn = roots(parameters, name, a, seed)
        errors.append([_errors(parameters, a, stack) for stack in drawn.values()])
        if number in figure_layers:
            contents[f"actual/{number}"] = a.float().numpy()
            for kind, stack in drawn.items():
                contents[f"root/{kind}/{number}"] = stack[0].float().numpy()
    norms = np.array(errors)
    return contents | {"frobenius": norms[..., 0], "spectral": norms[..., 1]}


def roots(parameters: Covariances, name: str, a: Tensor, seed: int) -> dict[str, Tensor]:
    """Return Y `[draws, p, r]` of each approximation Y Y^T of A `[p, p]`.

    There is only one draw for `BEST`, and for all approximations if p <= r.
    """
    values, vectors, _ = (part[0] for part in linalg.eigenbasis(a.unsqueeze(0)))
    root = (vectors * values.sqrt()).flip(-1)  # A = root root^T, with the largest eigenvalue first
    sketched = {
        kind: _sketched(parameters, sketch, name, root, seed) for kind, sketch in SKETCHES.items()
    }
    return sketched | {BEST: root[None, :, : parameters.rank]}


def _sketched(parameters: Covariances, sketch: str, name: str, root: Tensor, seed: int) -> Tensor:
    """Return Y `[draws, p, r]` for a kind of sketch. Each draw is a slot in the state of NysAct."""
    algorithm, width = NysAct(rank=parameters.rank, sketch=sketch, seed=seed), len(root)
    if width <= parameters.rank:
        return root.unsqueeze(0)  # NysAct stores A itself
    slots = [f"{name}#{draw}" for draw in range(parameters.draws)]
    state = algorithm.new_state(LayerShape(d_out=1, d_in=width), slots, like=root)
    rows = LinearRows(root.mT * width**0.5, bias=False, examples=width)  # the mean of a a^T is A
    for slot in range(parameters.draws):
        algorithm.accumulate(state, slice(slot, slot + 1), Signals(inputs=rows))
    algorithm.commit(state)
    algorithm.refresh(state)
    approximate = algorithm.curvature(state).low_rank
    assert approximate is not None
    return approximate


def _errors(parameters: Covariances, a: Tensor, roots: Tensor) -> np.ndarray:
    """Return |A - Y Y^T| / |A| in Frobenius and spectral norm, `[draws, 2]`; nan if A is zero."""
    errors = torch.stack([_norms(a - root @ root.mT) for root in roots])
    norms = _norms(a)
    return (errors / norms.where(norms > 0, torch.nan)).expand(parameters.draws, 2).numpy()


def _figure_layers(parameters: Covariances, matrices: Sequence[Tensor]) -> list[int]:
    """Return the indices of the layers in the figure.

    For each of the `SHOWN` largest widths above the rank, it is the last layer of this width.
    """
    last = {len(a): number for number, a in enumerate(matrices) if len(a) > parameters.rank}
    return sorted(last[width] for width in sorted(last)[-SHOWN:])


def numbers(parameters: Covariances, results: Sequence[Result]) -> pd.DataFrame:
    """Return a row with both relative errors for each seed, layer, approximation and draw."""
    rows = [
        {
            "seed": result.seed,
            "layer": str(layer),
            "inputs": int(result.arrays["inputs"][i]),
            "approximation": kind,
            "draw": draw,
            "frobenius": float(result.arrays["frobenius"][i, k, draw]),
            "spectral": float(result.arrays["spectral"][i, k, draw]),
        }
        for result in results
        for i, layer in enumerate(result.arrays["layers"])
        for k, kind in enumerate(APPROXIMATIONS)
        for draw in range(parameters.draws)
    ]
    return pd.DataFrame(rows)


def labels(layers: Sequence[str]) -> list[str]:
    """Return the labels of the arms that claims compare: the error of each sketch of a layer."""
    return [HALF, *(f"{kind} of layer {layer}" for kind in SKETCHES for layer in layers)]


def values(parameters: Covariances, numbers: Any, diverged: Sequence[int]) -> pd.DataFrame:
    """Return the values that claims compare: a row for each seed, a column for each of `labels`.

    A value is the mean relative Frobenius error over the draws. Layers that are stored exactly have
    none. The errors of a network that diverged are infinite.
    """
    sketched = numbers[numbers["inputs"] > parameters.rank]
    layers = list(dict.fromkeys(sketched["layer"]))
    means = sketched.groupby(["seed", "approximation", "layer"])["frobenius"].mean()
    table = means.unstack(["approximation", "layer"])
    table = table[[(kind, layer) for kind in SKETCHES for layer in layers]]
    table = table.set_axis(labels(layers)[1:], axis="columns")
    table = pd.concat([table, pd.DataFrame(np.inf, [*diverged], table.columns)])
    return table.assign(**{HALF: LARGE_ERROR})


def blocks(parameters: Covariances, numbers: Any) -> list[Block]:
    """Return a sentence with the layers whose error is above `LARGE_ERROR`, and the error table."""
    header = [
        "layer",
        "p",
        *(f"{norm}: {kind}" for norm in ("Frobenius", "spectral") for kind in APPROXIMATIONS),
    ]
    layers = list(dict.fromkeys(zip(numbers["layer"], numbers["inputs"], strict=True)))
    rows = [[layer, str(p), *_cells(numbers[numbers["layer"] == layer])] for layer, p in layers]
    rank, networks = parameters.rank, numbers["seed"].nunique()
    caption = f"Relative errors of approximations of rank {rank} of the activation covariance."
    note = (
        f"Errors |A - A^| / |A| at rank {rank}: mean and sample standard deviation over "
        f"{parameters.draws} draws of the test matrix for each of {networks} networks. "
        f"{BEST.capitalize()}: the r largest eigenvalues with their eigenvectors. No other matrix "
        "of rank r has a smaller error. A is the mean over the batches of the last epoch. p is the "
        "number of inputs of a layer, including the column of ones of a bias. A layer with "
        f"p <= {rank} is stored exactly. The paper does not state the rank of its Figure 1; its "
        "Table 7 has rank 10 for CIFAR."
    )
    sketched = numbers[numbers["approximation"] == APPROXIMATIONS[0]]
    column_sketch = sketched.groupby("layer", sort=False)["frobenius"].mean()
    above = [str(layer) for layer, error in column_sketch.items() if error > LARGE_ERROR]
    sentence = (
        f"In {len(above)} of {counted(len(column_sketch), 'layer')}, the column sketch has a mean relative "
        f"Frobenius error above {LARGE_ERROR:g}{': ' + ', '.join(above) if above else ''}."
    )
    table = Table(name="covariances", header=header, rows=rows, caption=caption)
    return [Text(sentence, label="Layers", finding=True), table, Text(note, note=True)]


def metrics(numbers: Any) -> dict[str, float]:
    """Return the mean errors as `frobenius/APPROXIMATION/LAYER` and `spectral/...`."""
    groups = numbers.groupby(["approximation", "layer"], sort=False)
    means = groups[["frobenius", "spectral"]].mean()
    return {
        f"{norm}/{kind}/{layer}": float(row[norm])
        for (kind, layer), row in means.iterrows()
        for norm in ("frobenius", "spectral")
    }


def draw(results: Sequence[Result], folder: Path) -> list[Path]:
    """Draw the matrices of the first network."""
    return draw_covariances(results[0].arrays, APPROXIMATIONS, folder)


def approximate(arrays: Arrays, kind: str, number: int) -> np.ndarray:
    """Return the approximation A^ `[p, p]` of a layer in the figure."""
    root = arrays[f"root/{kind}/{number}"].astype(float)
    return root @ root.T


def _named(layer: str, stack: Tensor) -> list[tuple[str, Tensor]]:
    """Return the name and the matrix `[p, p]` of each group of a layer."""
    return [(layer if len(stack) == 1 else f"{layer}[{group}]", a) for group, a in enumerate(stack)]


def _norms(matrix: Tensor) -> Tensor:
    """Return the Frobenius and the spectral norm of a symmetric matrix, `[2]`."""
    eigenvalues = torch.linalg.eigvalsh(matrix).abs()
    return torch.stack([torch.linalg.vector_norm(eigenvalues), eigenvalues.max()])


def _cells(rows: Any) -> list[str]:
    cells = []
    for norm in ("frobenius", "spectral"):
        for kind in APPROXIMATIONS:
            values = rows.loc[rows["approximation"] == kind, norm]
            spread = f" ± {values.std():.3f}" if len(values) > 1 else ""
            cells.append(f"{values.mean():.3f}{spread}")
    return cells
