"""NysAct, Section 4.3: the tuning that each optimizer needs, measured with equal budgets."""

from studies import Better, NotWorse, Range, Search, main

DECAY = Range(0.0, 2e-3)
DAMPED = {
    "damping": Range(0.03, 10.0, log=True),
    "ema_decay": Range(0.5, 0.99),
    "weight_decay": DECAY,
}
SPACES = {
    "sgd": {"lr": Range(0.01, 1.0, log=True), "momentum": Range(0.5, 0.99), "weight_decay": DECAY},
    "adamw": {"lr": Range(1e-4, 1e-1, log=True), "weight_decay": Range(0.0, 0.2)},
    "nysact-s": {"lr": Range(0.03, 3.0, log=True), **DAMPED},
    "kfac": {"lr": Range(0.03, 10.0, log=True), **DAMPED},
    "foof": {"lr": Range(0.03, 3.0, log=True), **DAMPED},
}
# The STEVE paper uses much smaller learning rates on these workloads.
SMALL = {name: {**SPACES[name], "lr": Range(1e-5, 0.1, log=True)} for name in ("sgd", "kfac")}
# A squared error that is summed over 64 pixels has larger gradients than a cross-entropy, so the
# best learning rates are smaller.
SQUARED_ERROR = {
    **{
        name: {**SPACES[name], "lr": Range(1e-3, 1.0, log=True)}
        for name in ("sgd", "nysact-s", "foof")
    },
    "kfac": {
        **SPACES["kfac"],
        "lr": Range(1e-3, 10.0, log=True),
        "damping": Range(1e-3, 10.0, log=True),
    },
}

SEARCH = Search(
    name="tune_optimizers",
    title="Optimizers tuned with equal budgets",
    paper="NysAct",
    table="Section 4.3",
    claims=[
        Better("nysact-s", than="sgd"),
        Better("nysact-s", than="adamw"),
        NotWorse("foof", than="sgd"),
        NotWorse("kfac", than="sgd"),
    ],
    undecidable=(
        "NysAct needs less effort for tuning: one search for each optimizer has no spread; the "
        "curves of the best of k configurations describe it",
        "NysAct, FOOF and KFAC perform well with the hyperparameters of SGD: each winner has its own "
        "hyperparameters",
    ),
    spaces=SPACES,
    spaces_on={
        "digits/autoencoder": SQUARED_ERROR,
        "cifar10/resnet50": SMALL,
        "cifar100/vit_s16": SMALL,
        "tinyimagenet": SMALL,
    },
    budget=20,
    reconstructed=("the spaces, which are missing from the text", "the budget"),
)

if __name__ == "__main__":
    main(SEARCH)
