"""TensorBoard event files: a folder for each trial, for the tabs TIME SERIES and HPARAMS."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from studies.harness.evidence.status import COMPLETED, IN_FLIGHT
from studies.harness.export.format import Format
from studies.harness.export.runs import Run, path_name

MESSAGES = ("compat.proto.summary", "plugins.hparams.api", "plugins.hparams.plugin_data")


class TensorBoard(Format):
    """A folder with an event file."""

    LIBRARY = "tensorboard"
    EXTRA = "tensorboard"
    COMMAND = "tensorboard --logdir {folder}"

    def place(self, run: Run) -> str:
        """Return the name of the run in TensorBoard."""
        name = path_name(run.workload, run.name)
        return f"{name}-seed={run.seed}-{run.key[:8]}"

    def write(self, run: Run, folder: Path) -> None:
        """Write the metrics as 32-bit numbers, and the session of the tab HPARAMS."""
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb
        from torch.utils.tensorboard import SummaryWriter

        shown = {**run.parameters, "status": run.status, "studies": ", ".join(run.studies)}
        values = {name: _value(value) for name, value in shown.items()}
        with SummaryWriter(str(folder)) as writer:
            session = hparams_pb(values, trial_id=run.key, start_time_secs=run.started_s)
            writer._get_file_writer().add_summary(session)
            for line in run.epochs:
                for name, value in line["metrics"].items():
                    writer.add_scalar(name, value, line["epoch"], walltime=line["time"])
            writer._get_file_writer().add_summary(_end(run))


def _value(value: Any) -> bool | int | float | str:
    """Return a value that TensorBoard accepts as a hyperparameter."""
    return value if isinstance(value, bool | int | float | str) else str(value)


def _end(run: Run) -> Any:
    """Return the summary with the status and the time of the trial's end."""
    from tensorboard.plugins.hparams import metadata

    summary, api, data = map(_messages, MESSAGES)
    words = {COMPLETED: "SUCCESS", IN_FLIGHT: "RUNNING"}
    word = "FAILURE" if run.failed else words.get(run.status, "UNKNOWN")
    status = api.Status.Value(f"STATUS_{word}")
    info = data.SessionEndInfo(status=status, end_time_secs=run.ended_s)
    content = metadata.create_summary_metadata(data.HParamsPluginData(session_end_info=info))
    value = summary.Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=content)
    return summary.Summary(value=[value])


def _messages(name: str) -> Any:
    """Return a module of TensorBoard that protobuf has generated and that has no types."""
    return import_module(f"tensorboard.{name}_pb2")


FORMAT = TensorBoard()
