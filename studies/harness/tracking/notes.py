"""The text on a study's page in MLflow: the claim, how to read the runs, the parameters' symbols in the papers."""

from __future__ import annotations

from collections.abc import Sequence

from studies.harness.design.arms import Trial
from studies.harness.design.facts import Facts

SYMBOLS = {
    "lr": "eta",
    "momentum": "mu",
    "betas": "beta_1, beta_2",
    "eps": "epsilon",
    "damping": "rho, added to the curvature before it is inverted",
    "ema_decay": "beta_2, the weight of the old statistic",
    "cov_interval": "tau_cov, steps between statistics",
    "inv_interval": "tau_inv, steps between inverses",
    "basis_interval": "n, steps between eigenbases",
    "rank": "r, of the Nystrom approximation",
    "sketch": "Omega, column sampling or Gaussian",
}
READING = (
    "One run for each configuration (`tags.kind = 'group'`) has the mean over its seeds, the standard deviation and "
    "the ends of the 95% t-interval: `mean/test/accuracy`, `sd/`, `ci_lo/`, `ci_hi/`, and `n`. One run for each trial "
    "(`tags.kind = 'trial'`) has its curve; the step is the epoch. The last epoch is the result; the best epoch on "
    "test never is. Diverged trials are FAILED, with the reason as a tag, and enter no mean. `report.html`, under "
    "Artifacts, is the whole report."
)


def description(facts: Facts, trials: Sequence[Trial]) -> str:
    """Return the note of a study's parent run, in Markdown."""
    names = dict.fromkeys(name for trial in trials for name in trial.config.hyperparameters)
    symbols = [f"- `{name}`: {SYMBOLS[name]}" for name in names if name in SYMBOLS]
    texts = {"Artefact": facts.citation, "Claim": facts.claim, "Falsifier": facts.falsifier, "How to read it": READING}
    paragraphs = [f"**{facts.title}**", *(f"**{name}.** {text}" for name, text in texts.items())]
    return "\n\n".join([*paragraphs, "\n".join(["**Parameters** and the papers' symbols", "", *symbols])])
