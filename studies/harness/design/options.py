"""The parsed options of a command, and the default paths."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from studies.harness.design.uris import sqlite_uri

DEFAULT_WORKLOAD = "digits/autoencoder"  # small, and it distinguishes the optimizers
SELECTING = ("optimizers", "only", "levels", "settings", "epochs", "workers_per_trial",
             "extra")  # fmt: skip
"""The options that change the configurations of an artefact (`kinds.selection`)."""
SMOKE_SEEDS, SMOKE_LEVELS, SMOKE_EPOCHS, SMOKE_WORKLOAD = [0, 1], 2, 2, "digits/cnn"


def default_root() -> Path:
    """Return the output folder: `$PRECOND_OUT`, or `outputs` below the current directory."""
    return Path(os.environ.get("PRECOND_OUT") or "outputs")


def usable(text: str) -> bool:
    """Return True if a text is not blank and has no control character, such as a line break."""
    return bool(text.strip()) and not any(ord(c) < 32 or c == "\x7f" for c in text)


def report_folder(root: Path, name: str, workload: str, selection: str = "") -> Path:
    """Return the folder of an artefact's report on a workload (`selection`: see `Plan`)."""
    folder = workload.replace("/", "-")
    return root / "reports" / name / (f"{folder}+{selection}" if selection else folder)


def default_uri(root: Path) -> str:
    """Return the URI of the MLflow database in an output folder."""
    return sqlite_uri(root.resolve() / "mlflow.db")


def _data_dir() -> Path:
    from trainables.data import default_data_dir

    return default_data_dir()


@dataclass(frozen=True, kw_only=True)
class Options:
    """The parsed command line; `--help` describes each option.

    Attributes:
        unresolved: True if a plugin or a workload is unusable. The plan is then not made, because
            its errors would only follow from that.
        extra: The values of the options that only one kind of artefact has, as text, by name.
        given: Names of the options that have a value, from the command line or from a default of
            click, such as that of `--blocks`.
    """

    smoke: bool = False
    dry_run: bool = False
    report_only: bool = False
    seeds: list[int] | None = None
    workload: str | None = None
    epochs: int | None = None
    optimizers: list[str] | None = None
    only: dict[str, list[Any]] = field(default_factory=dict)
    levels: dict[str, list[Any]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    max_concurrent: int | None = None
    gpus_per_trial: float | None = 0.0  # None: measure it
    address: str | None = None
    send_environment: bool = False
    tracking_uri: str | None = None
    out: Path | None = None
    data_dir: Path = field(default_factory=_data_dir)
    download: bool = False
    verify_data: bool = False
    plugins: tuple[Path, ...] = ()
    unresolved: bool = False
    workers_per_trial: int = 1
    retry: tuple[str, ...] = ()
    rerun: tuple[str, ...] = ()
    time_budget: float | None = None
    commit_every: float = 30.0
    diagnostics: bool = False
    as_json: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)
    given: frozenset[str] = frozenset()

    @property
    def workloads(self) -> list[str]:
        """The workloads named on the command line; empty to use the artefact's default."""
        return [] if self.workload is None else self.workload.split(",")

    @property
    def selecting(self) -> dict[str, Any]:
        """The options that change the artefact's configurations, without those not given."""
        plain, values = Options(), {name: getattr(self, name) for name in SELECTING}
        extra = {name: value for name, value in self.extra.items() if value not in (None, False)}
        values["extra"] = extra
        return {name: value for name, value in values.items() if value != getattr(plain, name)}

    @property
    def unselected(self) -> Options:
        """The options without those that change the artefact's configurations."""
        plain = Options()
        return replace(self, **{name: getattr(plain, name) for name in SELECTING})

    @property
    def root(self) -> Path:
        """The output folder; a smoke run uses a subfolder, so that it cannot mix with results."""
        root = self.out or default_root()
        return root / "smoke" if self.smoke else root

    @property
    def uri(self) -> str | None:
        """The URI of MLflow's tracking store; None to disable tracking."""
        if self.tracking_uri == "none":
            return None
        return self.tracking_uri or default_uri(self.root)
