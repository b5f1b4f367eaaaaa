"""A user-defined kind of artefact runs from the command line; all kinds have the common options."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import click
import pytest

from precond.hyperparameters import HyperparameterError
from studies.harness.command import cli, manage
from studies.harness.command.flags import FLAGS
from studies.harness.design.ending import STOPS, Stopped
from studies.harness.design.options import Options
from studies.harness.design.result import Listing, Report
from studies.harness.kinds.artefact import Artefact, Driver, Plan, Work
from studies.harness.kinds.records import Stored
from studies.harness.report import document
from studies.harness.report.document import Text
from trainables.store import StoreError


@dataclass(frozen=True, kw_only=True)
class SumPlan(Plan):
    """A plan with the numbers to add."""

    numbers: Sequence[int]


@dataclass(frozen=True, kw_only=True)
class Sum(Artefact):
    """A user-defined kind of artefact, which adds numbers."""

    KIND: ClassVar[str] = "sum"
    FLAGS: ClassVar[Sequence[click.Option]] = (click.Option(["--numbers"], help="Numbers to add."),)
    REFUSED: ClassVar[dict[str, str]] = {"optimizers": "which trains nothing"}

    ending: str = ""

    def plan(self, options: Options) -> list[SumPlan]:
        try:
            numbers = [int(word) for word in (options.extra.get("numbers") or "1,2").split(",")]
        except ValueError:
            raise HyperparameterError("--numbers: must be integers, as in 1,2") from None
        return [SumPlan(artefact=self, workload=self.workload, options=options, numbers=numbers)]

    def missing(self, plan: SumPlan) -> Work:
        todo = 0 if (plan.root / "sum.json").exists() or plan.options.report_only else 1
        return Work(
            count=todo,
            summary=f"{len(plan.numbers)} numbers to add",
            records=[{"numbers": plan.numbers}],
        )

    @classmethod
    def execute(cls, plans: Sequence[SumPlan], driver: Driver) -> None:
        for plan in plans:
            if plan.artefact.ending == "failure":
                raise StoreError("the numbers cannot be added")
            if plan.artefact.ending:
                raise Stopped(*STOPS[plan.artefact.ending])
            (plan.root / "sum.json").write_text(json.dumps([sum(plan.numbers), driver.generation]))

    def report(self, plan: SumPlan) -> Report:
        path = plan.root / "sum.json"
        total = json.loads(path.read_text())[0] if path.exists() else None
        files = document.write(plan.folder, self.title, [Text(f"The sum is {total}.")], [], {})
        listing = Listing(title="Sums", header=["what", "sum"], rows=[["all", str(total)]])
        return Report(
            files=files,
            findings=[f"The sum is {total}."],
            listing=listing,
            record=json.dumps(total),
        )

    def tracking(self, plan: SumPlan) -> None:
        return None

    def stored(self, root: Path) -> Stored:
        return Stored()

    def state(self, root: Path) -> str:
        return "done" if (root / "sum.json").exists() else "-"


SUM = Sum(
    name="sum",
    title="A sum",
    paper="ours",
    table="Table 1",
)


@pytest.fixture
def run_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Return a function that runs an artefact's command in an empty folder.

    It returns the exit code, stdout and stderr.
    """
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str, artefact: Artefact = SUM) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["sum.py", *arguments])
        return cli.invoke(cli.command(artefact)), *capsys.readouterr()

    return command


def test_user_defined_kind_runs(run_command, tmp_path: Path):
    code, out, err = run_command("--numbers", "3,4")
    assert (code, err) == (0, "") and "A sum" in out and "- The sum is 7." in out
    assert json.loads((tmp_path / "outputs/sum.json").read_text()) == [7, 1]
    assert (tmp_path / "outputs/reports/sum/digits-autoencoder/report.html").exists()
    code, out, _ = run_command("--numbers", "3,4", "--json")
    assert code == 0 and out == "7\n"
    # The second command did not execute the plan: the generation is still 1.
    assert json.loads((tmp_path / "outputs/sum.json").read_text()) == [7, 1]


def test_user_defined_kind_has_the_common_options(run_command, tmp_path: Path):
    code, out, _ = run_command("--dry-run")
    assert code == 0 and "2 numbers to add" in out and "Nothing was started" in out
    code, out, _ = run_command("--dry-run", "--json")
    assert code == 0 and json.loads(out) == {"numbers": [1, 2]}
    code, _, err = run_command("--numbers", "x", "--optimizers", "sgd", "--epochs", "0")
    assert code == 2 and err.splitlines() == [
        "error: --epochs = 0: must be an integer >= 1",
        "error: --optimizers: not available for sum, which trains nothing",
        "error: --numbers: must be integers, as in 1,2",
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("ending", "code"), [("budget", 3), ("SIGINT", 130), ("SIGTERM", 143), ("failure", 4)]
)
def test_early_end_sets_the_exit_code_and_prints_the_command_to_resume(
    run_command, ending: str, code: int
):
    exit_code, out, err = run_command(artefact=replace(SUM, ending=ending))
    assert exit_code == code and "- The sum is None." in out  # the report is always written
    assert err.splitlines()[-1] == "  python sum.py" and "all committed results are kept" in err


@pytest.mark.parametrize("artefact", manage.artefacts().values(), ids=list(manage.artefacts()))
def test_every_artefact_has_the_common_options_that_it_does_not_refuse(
    artefact: Artefact, run_command
):
    code, out, _ = run_command("--help", artefact=artefact)
    common = [flag for flag in FLAGS if flag.name not in artefact.REFUSED]
    assert code == 0 and all(flag.opts[0] in out for flag in [*common, *artefact.FLAGS])
    names = {flag.name for flag in FLAGS}
    assert set(artefact.REFUSED) <= names and set(artefact.HELP) <= names
