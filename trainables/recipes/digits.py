"""Recipes of the digits workloads.

The values of `digits/cnn` were tuned for this project on seeds that no study uses; docs/digits.md
records the measurements. `digits/mlp` has the same values. The as-released variants have the
conventions of the released code and the corresponding damping. Their other values are those of the
corrected variants. `digits/autoencoder` has no as-released variants. Values without a tuning, which
are those of the optimizers that are neither in `TUNED` nor in the ledger of `digits/autoencoder`,
are provisional: the best of a few short trials with one seed.
"""

from collections.abc import Mapping
from dataclasses import replace

from trainables.recipes import Parameters, Recipe, Tuned, nysact, steve

PRECONDITIONED = {"lr": 0.3, "damping": 1.0}


def _tuned(
    optimizer: str,
    configurations: int,
    values: Mapping[str, float],
    score: float,
    **ranges: tuple[float, float],
) -> Tuned:
    """Return a tuning on `digits/cnn` from the tables of docs/digits.md."""
    return Tuned(
        workload="digits/cnn",
        optimizer=optimizer,
        ranges=ranges,
        configurations=configurations,
        seeds=(100, 101, 102),
        metric="test/accuracy",
        values=values,
        score=score,
    )


# NysAct takes the values of FOOF.
FOOF = _tuned("foof", 9, PRECONDITIONED, 0.9872, lr=(0.01, 1.0), damping=(0.1, 1.0))
TUNED = {
    "sgd": _tuned("sgd", 4, {"lr": 0.1}, 0.9867, lr=(0.01, 0.3)),
    **dict.fromkeys(("foof", "nysact-s", "nysact-g"), FOOF),
    "eva": _tuned("eva", 21, PRECONDITIONED, 0.9894, lr=(0.03, 3.0), damping=(1e-3, 10.0)),
    "kfac": _tuned(
        *("kfac", 24, {"lr": 3.0, "damping": 1.0}, 0.9939), lr=(0.03, 10.0), damping=(1e-3, 10.0)
    ),
    "ekfac": _tuned(
        *("ekfac", 14, {"lr": 0.3, "damping": 3.0}, 0.99), lr=(0.03, 1.0), damping=(0.03, 10.0)
    ),
    "steve": _tuned("steve", 5, {"lr": 0.001}, 0.9928, lr=(3e-4, 0.03)),
}

DIGITS_CNN = Recipe(
    batch_size=64,
    epochs=20,
    schedule="cosine",
    optimizers={
        "sgd": {"lr": 0.1},
        **dict.fromkeys(("foof", "nysact-s", "nysact-g", "eva"), PRECONDITIONED),
        "kfac": {"lr": 3.0, "damping": 1.0},
        "ekfac": {"lr": 0.3, "damping": 3.0, "basis_interval": 50},
        "steve": {"lr": 0.001, "basis_interval": 50},
        "skfac": {"lr": 0.3, "damping": 1.0},
        "kbfgs": {"lr": 0.1, "damping": 0.3},
        "kbfgs-l": {"lr": 0.1, "damping": 0.3},
        "ggt": {"lr": 0.03},
        "mfac": {"lr": 0.01, "damping": 1e-3, "window": 128},
        "nysact-s+orthogonal": {"lr": 0.1, "damping": 0.1},
        "shampoo-graft": {"lr": 0.1},
        "lion": {"lr": 0.003},
        "adopt": {"lr": 0.01},
        "sophia-h": {"lr": 0.3},
        "psgd-kron": {"lr": 0.003},
        "schedulefree-adamw": {"lr": 0.01},
        "muon": {"lr": 0.03, "adam_lr": 0.003},
    },
    as_released={**nysact.AS_RELEASED, **steve.AS_RELEASED},
    tuned=TUNED,
    parameters=Parameters(exact=19_258),
)
DIGITS_MLP = replace(DIGITS_CNN, parameters=Parameters(exact=26_122))

# The winners of ledgers/digits-autoencoder.csv, which `python -m studies tune-recipe
# digits/autoencoder` wrote. Not tuned: as on digits/cnn, bases are updated every 50 steps. Without a
# warm-up, some seeds of SGD learn only the mean image.
DIGITS_AUTOENCODER = Recipe(
    batch_size=40,
    epochs=20,
    schedule="cosine",
    settings={"warmup_epochs": 2},
    optimizers={
        "sgd": {"lr": 0.011},
        "adam": {"lr": 0.0093},
        "adamw": {"lr": 0.006},
        "foof": {"lr": 0.007, "damping": 0.074},
        "nysact-s": {"lr": 0.017, "damping": 0.32},
        "nysact-g": {"lr": 0.017, "damping": 0.32},
        "eva": {"lr": 0.0088, "damping": 0.07},
        "kfac": {"lr": 0.029, "damping": 0.013},
        "ekfac": {"basis_interval": 50, "lr": 0.0029, "damping": 0.029},
        "steve": {"basis_interval": 50, "lr": 0.006},
        "sketchysgd": {"lr": 0.007, "damping": 0.29},
        "shampoo": {"lr": 0.28},
        "soap": {"lr": 0.006},
        "adahessian": {"lr": 0.14},
        "kbfgs": {"lr": 0.011, "damping": 0.093},
        "kbfgs-l": {"lr": 0.0019, "damping": 0.039},
        "skfac": {"lr": 0.019, "damping": 0.13},
        "ggt": {"lr": 0.039},
        "mfac": {"lr": 0.034, "damping": 0.00075, "window": 128},
        "nysact-s+orthogonal": {"lr": 0.025, "adam_lr": 0.0058, "damping": 5.8},
        "shampoo-graft": {"lr": 0.011},
        "lion": {"lr": 0.0022},
        "adopt": {"lr": 0.014},
        "sophia-h": {"lr": 0.07},
        "psgd-kron": {"lr": 0.0025},
        "schedulefree-adamw": {"lr": 0.022},
        "muon": {"lr": 0.017, "adam_lr": 0.0017},
    },
    parameters=Parameters(exact=38_416),
    numerics=2,  # the code layer is linear, and the initial weights are torch's default
)
