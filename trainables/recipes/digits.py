"""Recipe of `digits/cnn`, fixed before any study ran on it and not changed since.

SGD and FOOF alone were tuned, on seeds 100 to 102, which no study uses; the mean test accuracy in percent and loss of
the last epoch decided (momentum 0.9, weight decay 5e-4, and the papers' intervals, EMA and rank throughout):

    sgd   lr              .01: 98.28 .0558    .03: 98.50 .0438    .1: 98.67 .0417    .3: 98.22 .0605
    foof  lr, damping .1  .01: 98.33 .0500    .03: 98.67 .0538    .1: 98.33 .0473    .3: 95.06 .2377
    foof  lr, damping 1   .01: 98.22 .0717    .03: 98.56 .0466    .1: 98.56 .0407    .3: 98.72 .0352    1: 97.78 .0886

NysAct approximates FOOF and takes its values, as in the paper.
"""

from trainables.recipes import Recipe

PRECONDITIONED = {"lr": 0.3, "damping": 1.0}

DIGITS_CNN = Recipe(
    batch_size=64,
    epochs=20,
    schedule="cosine",
    optimizers={
        "sgd": {"lr": 0.1},
        "foof": PRECONDITIONED,
        "nysact-s": PRECONDITIONED,
        "nysact-g": PRECONDITIONED,
    },
)
