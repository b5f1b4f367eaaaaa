"""A study's page in MLflow: a note with the claims and the parameters' symbols, and the charts.

The charts are a shared view in the experiment's tags, in the format of MLflow's Share button.
Without this view, the page has a chart for each of about fifty metrics, and only for the parent
run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from studies.harness.design.arms import Trial
from studies.harness.design.facts import Facts
from studies.harness.evidence.metrics import higher_is_better
from studies.harness.published import papers
from studies.harness.tracking.view import View
from trainables.config import digest

# Without this tag, the UI shows the experiment as a chat application.
KIND = {"mlflow.experimentKind": "custom_model_development"}
SECTION = "configurations"
MAX_KEY = 150  # characters; MLflow allows 250 in the name of a tag
SYMBOLS = {
    "lr": "eta",
    "momentum": "mu",
    "betas": "beta_1, beta_2",
    "eps": "epsilon",
    "damping": "rho, added to the curvature before it is inverted",
    "ema_decay": "beta_2, the weight of the previous statistic",
    "cov_interval": "tau_cov, steps between statistics",
    "inv_interval": "tau_inv, steps between inverses",
    "basis_interval": "n, steps between eigenbases",
    "rank": "r, of the Nystrom approximation",
    "sketch": "Omega, column sampling or Gaussian",
}
READING = (
    "Each configuration has a run (`tags.kind = 'group'`) with the mean over its seeds, the "
    "standard deviation and the ends of the 95% interval (`mean/METRIC`, `sd/METRIC`, "
    "`ci_lo/METRIC` and `ci_hi/METRIC`), and the number of seeds `n`. Each trial has a run "
    "(`tags.kind = 'trial'`) with its curve over the epochs. The result of a trial is the last "
    "epoch, never the epoch that is best on the test set. Diverged trials have the status FAILED and "
    "the reason as a tag; no mean includes them. The parameters of a run are the optimizer, the "
    "seed and the values that differ between the trials; `config.json` under its Artifacts is the "
    "complete configuration. The complete report is `report.html` under Artifacts."
)


def summary(facts: Facts, workload: str | None = None) -> str:
    """Return the title, the claims and the citation in Markdown.

    Args:
        facts: The artefact.
        workload: The workload whose claims are listed; the claims on all workloads if None.
    """
    claims = facts.claims if workload is None else facts.claims_on(workload)
    texts = [facts.title]  # the list of experiments shows the text, not the Markdown
    if claims:
        heading = "**Claims.** The tags `claim/1`, `claim/2`, ... of the runs have the decisions."
        texts.append("\n".join([heading, "", *(f"- {claim.text}" for claim in claims)]))
    texts += [f"**{name}.** {text}" for name, text in papers.statements(facts).items()]
    return "\n\n".join(texts)


def description(facts: Facts, workload: str, trials: Sequence[Trial]) -> str:
    """Return the note of a study's parent run, in Markdown."""
    names = dict.fromkeys(name for trial in trials for name in trial.config.hyperparameters)
    symbols = [f"- `{name}`: {SYMBOLS[name]}" for name in names if name in SYMBOLS]
    reading = f"**How to read it.** {READING}"
    parameters = "\n".join(["**Parameters** and the papers' symbols", "", *symbols])
    return "\n\n".join([summary(facts, workload), reading, parameters])


def key(workload: str, selection: str = "") -> str:
    """Return the key of the view of a workload and a selection, as in the address of the page.

    It contains only characters that MLflow allows in the name of a tag.
    """
    text = f"{workload}+{selection}" if selection else workload
    name = re.sub("[^A-Za-z0-9_-]", "-", text)
    return f"configurations-{name if len(name) < MAX_KEY else digest(text)[:16]}"


def experiment_tags(facts: Facts) -> dict[str, str]:
    """Return the experiment's tags that do not depend on a workload."""
    return {**KIND, "mlflow.note.content": summary(facts)}


def tags(view: View, parent_id: str, metric: str, trials: Sequence[Trial]) -> dict[str, str]:
    """Return the experiment's tags: its description, and the charts of `metric` and of the loss.

    The charts show the configurations below the parent run `parent_id`. The parallel coordinates
    have an axis for each factor of the planned trials.
    """
    factors = list(dict.fromkeys(name for trial in trials for name in trial.arm.factors))
    charts = [
        _chart("PARALLEL", "parallel", selectedParams=["optimizer", *factors],
               selectedMetrics=[f"mean/{metric}"]),
        _chart("BAR", "means", metricKey=f"mean/{metric}"),
        _chart("LINE", "curves", metricKey=metric, selectedMetricKeys=[metric], xAxisKey="step",
               lineSmoothness=0),
        _chart("LINE", "losses", metricKey="train/loss", selectedMetricKeys=["train/loss"],
               xAxisKey="step", lineSmoothness=0, scaleType="log"),
    ]  # fmt: skip
    section = {"uuid": SECTION, "name": "Configurations: means over seeds", "columns": 2}
    state = {
        "searchFilter": f"tags.kind = 'group' and tags.mlflow.parentRunId = '{parent_id}'",
        # If the order is by date, the UI collapses the runs into their parent.
        "orderByKey": f"metrics.`mean/{metric}`",
        "orderByAsc": not higher_is_better(metric),
        "runsHiddenMode": "SHOWALL",
        "compareRunCharts": charts,
        "isAccordionReordered": True,  # this section first, instead of alphabetical order
        "compareRunSections": [{**section, "display": True, "isReordered": True, "deleted": False}],
    }
    name = f"mlflow.sharedViewState.{key(view.workload, view.selection)}"
    return {**experiment_tags(view.facts), name: json.dumps(state)}


def _chart(kind: str, name: str, **settings: Any) -> dict[str, Any]:
    common = {
        "deleted": False,
        "isGenerated": False,
        "metricSectionId": SECTION,
        "runsCountToCompare": 100,
    }
    return {"type": kind, "uuid": name, **common, **settings}
