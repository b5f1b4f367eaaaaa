"""What MLflow's chart page shows of a study at once: a view that the experiment holds, as its own Share button makes.

Without it the page has a chart for each of some fifty metrics, of the parent run alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from studies.harness.kinds.study.study import Study, Trial

KIND = {"mlflow.experimentKind": "custom_model_development"}  # the UI would take it for a chat application
SECTION = "configurations"


def groups(workload: str) -> str:
    """The search that finds a workload's configurations, one run each."""
    return f"tags.kind = 'group' and tags.workload = '{workload}'"


def key(workload: str) -> str:
    """What a workload's view is called in an address."""
    return "configurations-" + workload.replace("/", "-")


def tags(study: Study, trials: Sequence[Trial]) -> dict[str, str]:
    """The experiment's tags for the view of one workload's configurations.

    Args:
        study: Its figure names the metric.
        trials: The plan, all of one workload.
    """
    workload, metric = trials[0].config.workload, study.figure.metric
    factors = list(dict.fromkeys(name for trial in trials for name in trial.arm.factors))
    charts = [
        _chart("PARALLEL", "parallel", selectedParams=["optimizer", *factors], selectedMetrics=[f"mean/{metric}"]),
        _chart("BAR", "means", metricKey=f"mean/{metric}"),
        _chart("LINE", "curves", metricKey=metric, selectedMetricKeys=[metric], xAxisKey="step", lineSmoothness=0),
        _chart("LINE", "losses", metricKey="train/loss", selectedMetricKeys=["train/loss"], xAxisKey="step",
               lineSmoothness=0, scaleType="log"),
    ]  # fmt: skip
    section = {"uuid": SECTION, "name": "Configurations: means over seeds", "columns": 2}
    view = {
        "searchFilter": groups(workload),
        "orderByKey": f"metrics.`mean/{metric}`",  # by any other column than the date, and no run is folded away
        "orderByAsc": "loss" in metric,
        "runsHiddenMode": "SHOWALL",
        "compareRunCharts": charts,
        "isAccordionReordered": True,  # ours first, not by the alphabet
        "compareRunSections": [{**section, "display": True, "isReordered": True, "deleted": False}],
    }
    return {**KIND, f"mlflow.sharedViewState.{key(workload)}": json.dumps(view)}


def keep(client: Any, experiment: str, wanted: Mapping[str, str]) -> None:
    """Give an experiment the tags that it lacks."""
    known = client.get_experiment(experiment).tags
    for name, value in wanted.items():
        if known.get(name) != value:
            client.set_experiment_tag(experiment, name, value)


def _chart(kind: str, name: str, **settings: Any) -> dict[str, Any]:
    common = {"deleted": False, "isGenerated": False, "metricSectionId": SECTION, "runsCountToCompare": 100}
    return {"type": kind, "uuid": name, **common, **settings}
