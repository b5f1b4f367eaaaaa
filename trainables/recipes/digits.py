"""Recipes of the digits workloads.

The values of `digits/cnn` were tuned for this project on seeds that no study uses; docs/digits.md
records the measurements. `digits/mlp` has the same values. The as-released variants have the
conventions of the released code and the corresponding damping. Their other values are those of the
corrected variants. `digits/autoencoder` has no as-released variants.
"""

from dataclasses import replace

from trainables.recipes import Parameters, Recipe, nysact, steve

PRECONDITIONED = {"lr": 0.3, "damping": 1.0}

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
    },
    as_released={**nysact.AS_RELEASED, **steve.AS_RELEASED},
    parameters=Parameters(exact=19_258),
)
DIGITS_MLP = replace(DIGITS_CNN, parameters=Parameters(exact=26_122))

# The bases are updated every 50 steps, as on digits/cnn. `python -m studies tune-recipe` chooses
# the learning rate and the damping.
DIGITS_AUTOENCODER = Recipe(
    batch_size=40,
    epochs=20,
    schedule="cosine",
    optimizers={"ekfac": {"basis_interval": 50}, "steve": {"basis_interval": 50}},
    parameters=Parameters(exact=38_416),
)
