"""Where a command's trials run, and what its workers get."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from studies.harness.design.options import Options
from trainables import plugins
from trainables.fingerprint import fingerprint, provenance


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where trials run, and how many at once.

    Attributes:
        address: Address of a running cluster, `auto` or host:port; None starts Ray here, with a slot for each core.
        max_concurrent: The largest number of trials at once; None for as many as there is room for.
        gpus_per_trial: Share of a GPU for each trial; None measures how many trials a GPU can hold.
        time_budget: Seconds after which training stops; None for no limit.
        workers_per_trial: Processes that share each batch of a trial.
    """

    address: str | None = None
    max_concurrent: int | None = None
    gpus_per_trial: float | None = 0.0
    time_budget: float | None = None
    workers_per_trial: int = 1


def resources(options: Options, generation: int) -> tuple[Cluster, dict[str, Any]]:
    """Return where a command trains and what its workers get; a plugin's file is in the output folder then."""
    if options.plugin is not None:
        plugins.keep(options.plugin, options.root)
    cluster = Cluster(
        address=options.address,
        max_concurrent=options.max_concurrent,
        gpus_per_trial=options.gpus_per_trial,
        time_budget=options.time_budget,
        workers_per_trial=options.workers_per_trial,
    )
    worker: dict[str, Any] = {"generation": generation, "provenance": provenance()}
    worker |= {"commit_every": options.commit_every, "diagnostics": options.diagnostics}
    worker["data_dir"] = str(options.data_dir.absolute())
    worker["fingerprint"] = fingerprint() if options.address else None  # one machine has one code
    return cluster, worker
