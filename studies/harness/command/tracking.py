"""The commands of `python -m studies` for MLflow: sync and ui."""

from __future__ import annotations

from pathlib import Path

import click

from studies.harness.command.catalogue import OUT, URI, artefacts
from studies.harness.command.screen import environment, refuse
from studies.harness.design.ending import COMPLETE, SOME_FAILED


@click.command(
    "sync",
    help="Send missing results of all studies to MLflow. A search whose settings in OUT differ from "
    "those of its study file is not sent, and the exit code is 1.",
    params=[OUT, URI],
)
def _sync(root: Path, tracking_uri: str | None) -> int:
    from studies.harness.command import reports
    from studies.harness.kinds.search.proposals import DifferentSearch
    from studies.harness.tracking import view

    code, results = COMPLETE, 0
    try:
        for artefact in artefacts().values():
            views = view.send_all(
                [artefact], root, tracking_uri, lambda plan: reports.last(plan.folder)[1]
            )
            try:
                for name, sent in views:
                    print(f"{name}: {sent}")
                    results += 1
            except DifferentSearch as error:
                facts = str(error).partition(": ")[0]
                advice = "to send it, repeat the command that ran it, with --report-only"
                print(f"{artefact.name}: not sent, because {facts}; {advice}")
                code = SOME_FAILED
        if not results and code == COMPLETE:
            print(f"no results to send in {root}; run a study first, or name a folder with --out")
    except Exception as error:
        first_line = str(error).partition("\n")[0]
        return environment(
            f"sync failed ({type(error).__name__}: {first_line}); no results are lost; try again"
        )
    return code


@click.command(
    "ui",
    help="Start the MLflow UI on 127.0.0.1. First print the addresses of pages that compare runs.",
    params=[
        OUT,
        click.Option(
            ["--port"],
            type=click.IntRange(1, 65535),
            default=5000,
            show_default=True,
            help="Port of the UI.",
        ),
        click.Option(["--links-only"], is_flag=True, help="Print the addresses and exit."),
    ],
)
def _ui(root: Path, port: int, links_only: bool) -> int:
    from studies.harness.tracking import ui

    if not (root / "mlflow.db").exists():
        return refuse(
            [f"{root}: has no MLflow database; run a study first, or name its folder with --out"]
        )
    for page, address in ui.links(root, f"http://127.0.0.1:{port}"):
        print(f"{page}\n  {address}")
    return COMPLETE if links_only else ui.serve(root, port)


COMMANDS = (_sync, _ui)
