"""The layout of Lightning's CSVLogger: `metrics.csv` and `hparams.yaml` in version folders."""

from __future__ import annotations

import warnings
from pathlib import Path

from studies.harness.export.format import Format
from studies.harness.export.runs import Run, path_name


class Csv(Format):
    """A folder for each configuration, in which the version is the seed."""

    LIBRARY = "lightning"
    EXTRA = "csv"
    COMMAND = ""

    def place(self, run: Run) -> str:
        """Return the folder of the configuration, and in it the folder of the seed."""
        name = path_name(run.workload, run.name)
        return f"{name}-{run.group_key[:8]}/version_{run.seed}"

    def write(self, run: Run, folder: Path) -> None:
        """Write a line for each epoch with its time, and the configuration with the status."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the packages that Lightning imports
            from lightning.pytorch.loggers import CSVLogger

        logger = CSVLogger(folder.parent, name="", version=folder.name)
        logger.log_hyperparams({**run.parameters, **run.facts})
        for line in run.epochs:
            logger.log_metrics({**line["metrics"], "time": line["time"]}, step=line["epoch"])
        logger.save()


FORMAT = Csv()
