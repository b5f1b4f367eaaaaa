"""Recipes of small workloads besides digits. All values are provisional until they are tuned."""

from dataclasses import replace

from trainables.recipes import Parameters, Recipe
from trainables.recipes.digits import PRECONDITIONED

SQUARED_ERROR = {"lr": 0.01, "damping": 1.0}
# The squares of each example's gradient would double the time of a trial.
FAST_EKFAC = {"damping": 1.0, "basis_interval": 200, "second_moment": "running"}
OPTIMIZERS = {
    "sgd": {"lr": 0.05},
    "adam": {"lr": 0.001},
    **dict.fromkeys(("foof", "nysact-s", "nysact-g", "eva", "kfac"), PRECONDITIONED),
    "ekfac": {"lr": 0.1, **FAST_EKFAC},
    "steve": {"lr": 0.001, "basis_interval": 50},
    "soap": {"lr": 0.003},
}

MNIST5K_MLP = Recipe(
    batch_size=80,
    epochs=5,
    schedule="cosine",
    optimizers=OPTIMIZERS,
    parameters=Parameters(exact=118_282),
)
MNIST5K_CNN = replace(MNIST5K_MLP, batch_size=40, epochs=2, parameters=Parameters(exact=19_258))
MNIST5K_AUTOENCODER = replace(
    MNIST5K_MLP,
    epochs=3,
    optimizers={
        **OPTIMIZERS,
        "sgd": {"lr": 0.01},
        **dict.fromkeys(("foof", "nysact-s", "nysact-g"), SQUARED_ERROR),
        "ekfac": {"lr": 0.003, **FAST_EKFAC, "damping": 3.0},
    },
    parameters=Parameters(exact=223_456),
    numerics=2,  # the code layer is linear, and the initial weights are torch's default
)

DIABETES_MLP = replace(
    MNIST5K_MLP,
    batch_size=38,
    epochs=10,  # with 30, the test error of the preconditioned optimizers rises
    optimizers={**OPTIMIZERS, "sgd": {"lr": 0.01}},
    parameters=Parameters(exact=18_049),
)
ILLCONDITIONED_LINEAR = Recipe(
    batch_size=100,
    epochs=30,
    schedule="cosine",
    settings={"condition": 1e4},
    optimizers={
        **OPTIMIZERS,
        "sgd": {"lr": 0.3},
        "adam": {"lr": 0.1},
        "foof": {"lr": 0.03, "damping": 1e-3},
        "kfac": {"lr": 0.1, "damping": 1e-4},
    },
    parameters=Parameters(exact=520),
)

TEXT_GPT = Recipe(
    batch_size=32,
    epochs=3,
    schedule="cosine",
    optimizers={**OPTIMIZERS, "sgd": {"lr": 0.1}, "adam": {"lr": 0.003}},
    parameters=Parameters(exact=117_608),  # with the vocabulary of Python 3.11
)
