"""The command line before anything starts: plans, selections, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from studies.ablation_rank import STUDY
from studies.harness.cli import Options, plan

ROOT = Path(__file__).parents[1]
NOTHING = dict.fromkeys(Options.__dataclass_fields__)


def options(**chosen: object) -> Options:
    return Options(**{**NOTHING, "smoke": False, "only": {}, **chosen})  # type: ignore[arg-type]


def command(*arguments: str, out: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "studies" / "ablation_rank.py", *arguments, "--out", out],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=out.parent,
    )


def test_the_study_is_the_papers_figure():
    trials = plan(STUDY, options())
    assert len(trials) == 50 and len({trial.config.trial_key for trial in trials}) == 50
    assert {trial.arm.label for trial in trials if trial.arm.factors} == {
        f"nysact-{kind} rank={rank}" for kind in "sg" for rank in (5, 10, 15, 20)
    }
    assert {trial.config.seed for trial in trials} == {0, 1, 2, 3, 4}


def test_more_seeds_keep_the_trials_there_are():
    five, six = ({t.config.trial_key for t in plan(STUDY, options(seeds=list(range(n))))} for n in (5, 6))
    assert five < six and len(six - five) == 10


def test_selections():
    assert {t.arm.optimizer for t in plan(STUDY, options(optimizers=["foof", "sgd"]))} == {"foof", "sgd"}
    ranks = {t.config.hyperparameters.get("rank") for t in plan(STUDY, options(only={"rank": ["5", "20"]}))}
    assert ranks == {5, 20, None}  # the references stay
    smoke = plan(STUDY, options(smoke=True))
    assert len(smoke) == 12 and {t.config.epochs for t in smoke} == {2}


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"only": {"rnk": ["5"]}}, 'Did you mean "rank"'),
        ({"only": {"rank": ["8"]}}, "--only rank=8: not a level. Known: 5, 10, 15, 20"),
        ({"optimizers": ["fof"]}, 'Did you mean "foof"'),
        ({"workload": "digit/cnn"}, 'Did you mean "digits/cnn"'),
        ({"optimizers": ["fof"], "only": {"rank": ["0"]}}, "(?s)fof.*rank=0"),
    ],
)
def test_what_the_plan_refuses(chosen: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        plan(STUDY, options(**chosen))


@pytest.mark.parametrize(
    "arguments", [["--seeds", "-1"], ["--sedes", "3"], ["--epochs", "0"], ["--only", "rank"], ["--only", "rank=8"]]
)
def test_a_bad_command_exits_2_in_a_line_and_writes_nothing(tmp_path: Path, arguments: list[str]):
    out = tmp_path / "out"
    done = command(*arguments, out=out)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr and "rror" in done.stderr
    assert not out.exists()


def test_dry_run_prints_the_plan_and_starts_nothing(tmp_path: Path):
    out = tmp_path / "out"
    done = command("--dry-run", out=out)
    assert done.returncode == 0 and "50 to go" in done.stdout and "nysact-g rank=20" in done.stdout
    assert not out.exists()


def test_help_names_the_claim_and_every_flag(tmp_path: Path):
    done = command("--help", out=tmp_path / "out")
    assert done.returncode == 0 and "Claim" in done.stdout
    for name in ("smoke", "dry-run", "report-only", "seeds", "workload", "epochs", "optimizers", "only",
                 "max-concurrent", "tracking-uri", "out"):  # fmt: skip
        assert f"--{name}" in done.stdout
