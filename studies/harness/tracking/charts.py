"""The charts on the experiment's page in MLflow: a shared view in the experiment's tags, as the Share button writes it.

Without it the page has a chart for each of about fifty metrics, of the parent run alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from studies.harness.design.arms import Trial

KIND = {"mlflow.experimentKind": "custom_model_development"}  # the UI would take it for a chat application
SECTION = "configurations"


def key(workload: str) -> str:
    """Return the name of a workload's view in an address."""
    return "configurations-" + workload.replace("/", "-")


def tags(workload: str, metric: str, trials: Sequence[Trial]) -> dict[str, str]:
    """Return the experiment's tags for the view of a workload's configurations.

    Args:
        workload: Name of the workload.
        metric: What the charts show beside the loss.
        trials: The plan; its factors are axes of the parallel coordinates.
    """
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
        "searchFilter": f"tags.kind = 'group' and tags.workload = '{workload}'",
        "orderByKey": f"metrics.`mean/{metric}`",  # any column but the date: no run is collapsed into its parent
        "orderByAsc": "loss" in metric,
        "runsHiddenMode": "SHOWALL",
        "compareRunCharts": charts,
        "isAccordionReordered": True,  # this section first, not in alphabetical order
        "compareRunSections": [{**section, "display": True, "isReordered": True, "deleted": False}],
    }
    return {**KIND, f"mlflow.sharedViewState.{key(workload)}": json.dumps(view)}


def _chart(kind: str, name: str, **settings: Any) -> dict[str, Any]:
    common = {"deleted": False, "isGenerated": False, "metricSectionId": SECTION, "runsCountToCompare": 100}
    return {"type": kind, "uuid": name, **common, **settings}
