"""The measurement of `covariance_heatmap`: activation covariances A and their Nystrom approximations.

The rows a are those that an optimizer receives: of training batches in training mode, with a last column of ones for a
bias. `precond.NysAct` computes the approximations, from rows whose covariance is A.
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
SHOWN = 3  # layers in the figure
LOST = 0.5  # smallest relative error at which a column sketch counts as failed


def model_problems(parameters: Covariances, model: nn.Module) -> list[str]:
    """Return a line if the rank exceeds the inputs of the widest layer."""
    return precond.check("nysact-s", {"rank": parameters.rank}, model)


def measure(parameters: Covariances, trainer: Trainer, epochs: Epochs) -> Arrays:
    """Train all epochs, and return the arrays of the last epoch's covariances."""
    for _ in islice(epochs, trainer.config.epochs - 1):
        pass
    with precond.observe(trainer.model) as observer:
        next(epochs)
    return arrays(parameters, observer.covariances(), stream_seed(trainer.config.seed, "optimizer"))


def arrays(parameters: Covariances, covariances: Mapping[str, Tensor], seed: int) -> Arrays:
    """Return the relative errors of all layers, and the matrices of those in the figure.

    Args:
        parameters: Rank and number of draws.
        covariances: `[groups, p, p]` by layer.
        seed: Seed of the test matrices.

    Returns:
        `layers` (names) and `inputs` (p) of n layers, where each group of a convolution counts as a layer; `frobenius`
        and `spectral` `[n, approximations, draws]`; `shown`, the numbers of the layers in the figure; for each of these
        i, `actual/i [p, p]` and `root/APPROXIMATION/i [p, r]`, which is Y in Y Y^T of the first draw.
    """
    matrices = {
        name: a.double().cpu()
        for layer, stack in covariances.items()
        for name, a in _named(layer, stack)
    }
    names, shown = list(matrices), _shown(parameters, list(matrices.values()))
    contents: Arrays = {
        "layers": np.array(names),
        "inputs": np.array([len(a) for a in matrices.values()]),
        "shown": np.array(shown, dtype=np.int64),
    }
    errors = []
    for number, (name, a) in enumerate(matrices.items()):
        drawn = roots(parameters, name, a, seed)
        errors.append([_errors(parameters, a, stack) for stack in drawn.values()])
        if number in shown:
            contents[f"actual/{number}"] = a.float().numpy()
            contents |= {
                f"root/{kind}/{number}": stack[0].float().numpy() for kind, stack in drawn.items()
            }
    both = np.array(errors)
    return contents | {"frobenius": both[..., 0], "spectral": both[..., 1]}


def roots(parameters: Covariances, name: str, a: Tensor, seed: int) -> dict[str, Tensor]:
    """Return Y `[draws, p, r]` of each approximation Y Y^T of A `[p, p]`; one draw if `BEST` or p <= r."""
    values, vectors, _ = (part[0] for part in linalg.eigenbasis(a.unsqueeze(0)))
    root = (vectors * values.sqrt()).flip(-1)  # A = root root^T, the largest first
    sketched = {
        kind: _sketched(parameters, sketch, name, root, seed) for kind, sketch in SKETCHES.items()
    }
    return sketched | {BEST: root[None, :, : parameters.rank]}


def _sketched(parameters: Covariances, sketch: str, name: str, root: Tensor, seed: int) -> Tensor:
    """Return Y of one kind of sketch; each draw is a slot in the state of NysAct."""
    algorithm, width = NysAct(rank=parameters.rank, sketch=sketch, seed=seed), len(root)
    if width <= parameters.rank:
        return root.unsqueeze(0)  # NysAct stores A itself
    slots = [f"{name}#{draw}" for draw in range(parameters.draws)]
    state = algorithm.new_state(LayerShape(d_out=1, d_in=width), slots, like=root)
    rows = LinearRows(root.mT * width**0.5, bias=False, examples=width)  # their mean a a^T is A
    for slot in range(parameters.draws):
        algorithm.accumulate(state, slice(slot, slot + 1), Signals(inputs=rows))
    algorithm.commit(state)
    algorithm.refresh(state)
    approximate = algorithm.curvature(state).low_rank
    assert approximate is not None
    return approximate


def _errors(parameters: Covariances, a: Tensor, roots: Tensor) -> np.ndarray:
    """Return |A - Y Y^T| / |A| in Frobenius and spectral norm, `[draws, 2]`; nan if A is zero."""
    errors, norms = torch.stack([_norms(a - root @ root.mT) for root in roots]), _norms(a)
    return (errors / norms.where(norms > 0, torch.nan)).expand(parameters.draws, 2).numpy()


def _shown(parameters: Covariances, matrices: Sequence[Tensor]) -> list[int]:
    """Return the last layer of each of the `SHOWN` largest widths above the rank, in model order."""
    last = {len(a): number for number, a in enumerate(matrices) if len(a) > parameters.rank}
    return sorted(last[width] for width in sorted(last)[-SHOWN:])


def numbers(parameters: Covariances, results: Sequence[Result]) -> pd.DataFrame:
    """Return the relative errors in both norms for each seed, layer, approximation and draw."""
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


def blocks(parameters: Covariances, numbers: Any) -> list[Block]:
    """Return the table of errors, and the layers with a mean error of the column sketch above `LOST`."""
    header = [
        "layer",
        "p",
        *(f"{norm}: {kind}" for norm in ("Frobenius", "spectral") for kind in APPROXIMATIONS),
    ]
    layers = list(dict.fromkeys(zip(numbers["layer"], numbers["inputs"], strict=True)))
    rows = [[layer, str(p), *_cells(numbers[numbers["layer"] == layer])] for layer, p in layers]
    caption = (
        f"Relative errors of approximations of rank {parameters.rank} of the activation covariance."
    )
    note = (
        f"Errors |A - A^| / |A| at rank {parameters.rank}: mean and sample standard deviation over {parameters.draws} "
        f"draws of the test matrix for each of {numbers['seed'].nunique()} networks. {BEST.capitalize()}: the r "
        "largest eigenvalues with their vectors, the least error that a matrix of rank r can have. A is the mean over "
        f"the batches of the last epoch, p counts a bias's column of ones, and a layer with p <= {parameters.rank} is "
        "kept as it is. The rank of the paper's Figure 1 is not stated; 10 is that of its Table 7 for CIFAR."
    )
    column = (
        numbers[numbers["approximation"] == APPROXIMATIONS[0]]
        .groupby("layer", sort=False)["frobenius"]
        .mean()
    )
    lost = [str(layer) for layer, error in column.items() if error > LOST]
    verdict = (
        f"In {len(lost)} of {len(column)} layers the column sketch has a mean Frobenius error above "
        f"{LOST:g}{': ' + ', '.join(lost) if lost else ''}."
    )
    table = Table(name="covariances", header=header, rows=rows, caption=caption)
    return [Text(verdict, label="Verdict", finding=True), table, Text(note, note=True)]


def metrics(numbers: Any) -> dict[str, float]:
    """Return the mean errors as `frobenius/KIND/LAYER` and `spectral/KIND/LAYER`."""
    means = numbers.groupby(["approximation", "layer"], sort=False)[
        ["frobenius", "spectral"]
    ].mean()
    return {
        f"{norm}/{kind}/{layer}": float(row[norm])
        for (kind, layer), row in means.iterrows()
        for norm in ("frobenius", "spectral")
    }


def draw(results: Sequence[Result], folder: Path) -> list[Path]:
    """Draw the matrices of the first network."""
    return draw_covariances(results[0].arrays, APPROXIMATIONS, folder)


def approximate(arrays: Arrays, kind: str, number: int) -> np.ndarray:
    """Return A^ `[p, p]` of a layer in the figure, from the arrays of a result."""
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
            cells.append(
                f"{values.mean():.3f} ± {values.std():.3f}"
                if len(values) > 1
                else f"{values.mean():.3f}"
            )
    return cells
