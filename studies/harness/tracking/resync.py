"""MLflow anew, from everything that an output folder holds of the package's studies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from precond import HyperparameterError
from studies.harness.evidence import ledger
from studies.harness.kinds.probe.probe import Probe
from studies.harness.kinds.search import part as search_part
from studies.harness.kinds.search.search import Search
from studies.harness.kinds.study.study import Study
from studies.harness.tracking import probes as probe_tracking
from studies.harness.tracking import sync as tracking
from trainables.store import COMPLETED, read_config, trial_folders


def everything(
    studies: Mapping[str, Study],
    probes: Mapping[str, Probe],
    searches: Mapping[str, Search],
    root: Path,
    uri: str | None,
) -> Iterator[tuple[str, str]]:
    """Send what MLflow lacks; yields the name of each study that the folder holds anything of, and what was sent.

    A study counts on a workload where it has a report, or all its trials; one that only shares trials does not. Its
    trials are found under every seed that is there, with the levels and values of its file: those of other flags are
    sent by the same command with `--report-only`.
    """
    seeds: dict[str, set[int]] = {}
    for folder in trial_folders(root):
        config = read_config(folder)["config"]
        seeds.setdefault(config["workload"], set()).add(config["seed"])
    known = {folder.name for folder in trial_folders(root)}
    for study in studies.values():
        for workload, there in sorted(seeds.items()):
            try:
                planned = study.trials(workload, sorted(there))
            except HyperparameterError:  # not a study of this workload
                continue
            trials = [trial for trial in planned if trial.config.trial_key[:16] in known]
            report = _report(root, study.name, workload)
            if report or not ledger.missing(study.trials(workload), root):
                sent = tracking.sync(study, trials, root, uri, report)
                yield f"{study.name} on {workload}", f"{sent} epochs sent"
    for probe in probes.values():
        for workload in sorted({probe.workload, *probe.published}):
            trials = probe.trials(workload)
            complete = [one for one in probe.found(trials, root).values() if one.status["status"] == COMPLETED]
            if complete:
                metrics = probe.measurement.metrics(probe.measurement.numbers(complete))
                sent = probe_tracking.send(probe, trials, metrics, _report(root, probe.name, workload), root, uri)
                yield f"{probe.name} on {workload}", "sent" if sent else "nothing to send"
    for search in searches.values():
        for part in search_part.parts(search, root):
            trials = [trial for trial in search_part.Known(part) if trial.config.trial_key[:16] in known]
            if trials:
                workload = trials[0].config.workload
                sent = tracking.sync(search.as_study, trials, root, uri, _report(root, search.name, workload))
                yield f"{search.name} on {workload}", f"{sent} epochs sent"


def _report(root: Path, name: str, workload: str) -> list[Path]:
    """The files of the last report."""
    folder = ledger.report_folder(root, name, workload)
    return sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
