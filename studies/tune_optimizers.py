"""NysAct, Section 4.3: how much tuning an optimizer needs, all of them tuned with the same budget.

Scored on a held-out tenth of the training set, the recipe's own values first; the winners are then trained on all of it
under fresh seeds, which alone is the result. The spaces are ours: what the paper searched is lost from its text.
"""

from studies import Range, Search, main

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
# STEVE's paper trains with much smaller steps.
SMALL = {name: {**SPACES[name], "lr": Range(1e-5, 0.1, log=True)} for name in ("sgd", "kfac")}

SEARCH = Search(
    name="tune_optimizers",
    title="Optimizers tuned with equal budgets",
    paper="NysAct",
    table="Section 4.3",
    claim="NysAct, FOOF and KFAC do well at SGD's learning rate, momentum and weight decay: they need less tuning.",
    falsifier="SGD's or AdamW's winner told to be better than NysAct's, or SGD's expected best of few ahead of it.",
    spaces=SPACES,
    spaces_on={"cifar10/resnet50": SMALL, "cifar100/vit_s16": SMALL, "tinyimagenet": SMALL},
    budget=20,
    reconstructed=("the spaces", "the budget"),
)

if __name__ == "__main__":
    main(SEARCH)
