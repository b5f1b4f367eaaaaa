"""The last lines that a command prints, in 80 columns: findings, paths and the next commands."""

from __future__ import annotations

import io
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from folders import STUDY, plan, planned, report, write_trial
from rich.console import Console

from studies import ablation_rank
from studies.harness.cluster.progress import StudyProgress
from studies.harness.command import screen
from studies.harness.command.run import run_command
from studies.harness.design.claims import POINTS
from studies.harness.design.options import Options
from studies.harness.design.result import Report
from studies.harness.evidence.metrics import number, unit
from studies.harness.kinds.study.plan import plans
from studies.harness.report.document import Heading, Text, findings
from trainables.store import COMPLETED, DIVERGED, FAILED

ESCAPE = "\x1b"


def options(out: Path, **other_options) -> Options:
    return Options(smoke=True, only={}, levels={}, settings={}, out=out, **other_options)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder with the finished trials of a smoke run."""
    root = tmp_path_factory.mktemp("out")
    (smoke,) = plans(ablation_rank.STUDY, options(root))
    for trial in smoke.trials:
        write_trial(root / "smoke", trial)
    return root


class Terminal(io.StringIO):
    """A stream that rich regards as a terminal."""

    def isatty(self) -> bool:
        return True


def printed_text(
    out: Path, monkeypatch: pytest.MonkeyPatch, file: io.StringIO, **variables: str
) -> str:
    """Return the text that the command prints to `file`, in 80 columns."""
    monkeypatch.chdir(out.parent)
    for name in ("NO_COLOR", "FORCE_COLOR", "PRECOND_OUT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "80", **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", file)
    report_options = options(out, report_only=True, tracking_uri="none")
    assert run_command([ablation_rank.STUDY], report_options) == 0
    return file.getvalue()


def lines_without_escape_codes(text: str) -> list[str]:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).splitlines()


def test_terminal_pipe_and_no_color_print_the_same_text_in_80_columns(
    out: Path, monkeypatch: pytest.MonkeyPatch
):
    """Only a terminal without `NO_COLOR` receives escape codes."""
    coloured = printed_text(out, monkeypatch, Terminal())
    uncoloured = printed_text(out, monkeypatch, Terminal(), NO_COLOR="1")
    piped = printed_text(out, monkeypatch, io.StringIO())
    assert ESCAPE in coloured and ESCAPE not in uncoloured and ESCAPE not in piped
    assert lines_without_escape_codes(coloured) == uncoloured.splitlines() == piped.splitlines()
    assert [line for line in piped.splitlines() if len(line) > 80] == []


def test_no_color_disables_the_live_display(monkeypatch: pytest.MonkeyPatch):
    outputs = []
    for variables in ({}, {"NO_COLOR": "1"}):
        monkeypatch.setattr(sys, "stdout", Terminal())
        monkeypatch.delenv("NO_COLOR", raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with StudyProgress(planned(seeds=1), screen.terminal()) as progress:
            progress.epoch(planned(seeds=1)[0].config.trial_key, 0, {"test/accuracy": 0.5})
        outputs.append(sys.stdout.getvalue())
    assert ESCAPE in outputs[0] and outputs[1] == ""


def test_output_ends_with_findings_paths_and_next_commands(
    out: Path, monkeypatch: pytest.MonkeyPatch
):
    piped = printed_text(out, monkeypatch, io.StringIO())
    document = (out / "smoke/reports/ablation_rank/digits-cnn/report.md").read_text()
    *tested, rest = re.split(r"^- ", piped, flags=re.M)[1:]
    sentences = [" ".join(text.split()) for text in tested]
    assert len(sentences) == 3
    assert all(f"**{text.replace(':', '.**', 1)}" in document for text in sentences)
    assert rest.startswith("Not tested: 4 of 7 claims")
    assert "nysact-s, rank 5 to 10" not in rest  # only the report has the exploratory comparisons
    *_, ending = rest.rpartition("\n\n")
    folder = f"{out.name}/smoke/reports/ablation_rank/digits-cnn"
    assert ending.splitlines() == [
        f"  report  {folder}/report.html",
        f"  files   {folder}/",
        "Next:",
        "  the same command with --seeds 3  trains one more seed of each arm",
    ]


EXPLORATORY = replace(STUDY, claims=())


def printed_lines(findings: list[str], folder: Path) -> list[str]:
    console = Console(file=io.StringIO(), width=80, color_system=None)
    files = [folder / "report.md", folder / "report.html"]
    screen.show(Report(files=files, findings=findings), console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_equivalent_levels_and_the_number_of_diverged_trials_are_findings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The terminal prints the report's findings, and does not parse brackets as markup."""
    levels = {"nysact-s": 0.95, "nysact-g": 0.95, "foof": 0.97, "sgd": 0.90}

    def equal_levels(trial, epoch):
        jitter = POINTS * 0.01 * ((trial.config.seed * 7 + trial.arm.overrides.get("rank", 0)) % 3)
        return {"test/accuracy": levels[trial.arm.optimizer] + jitter}

    monkeypatch.setattr("folders.metrics", equal_levels)
    for trial in planned():
        if trial == planned()[1]:
            write_trial(tmp_path, trial, 1, DIVERGED, epoch=1, step=3)
        else:
            write_trial(tmp_path, trial)
    findings = report(tmp_path, planned(), EXPLORATORY).findings
    lines = printed_lines([*findings, "in [bold]"], tmp_path)
    text = " ".join(" ".join(lines).split())
    assert (
        "- nysact-s, rank 5 to 20: all levels are equal within 0.3 percentage points (two "
        "one-sided t-tests for every pair, 5% level)." in text
    )
    assert (
        "- Of 24 planned trials, 1 diverged; no mean includes this trial, but every comparison "
        "counts it as the worst of its seed."
    ) in text
    assert (
        "- 6 arms are significantly better than sgd; foof is not significantly different from sgd "
        "(paired tests, Holm-corrected over the rows)."
    ) in text  # a trial of foof diverged, and the rank test of three seeds is not significant
    assert "- in [bold]" in text
    assert all(len(line) <= 80 for line in lines if not line.startswith(("  report", "  files")))


def test_one_seed_gives_no_sentence_about_significance(tmp_path: Path):
    trials = planned(seeds=1)
    for trial in trials:
        write_trial(tmp_path, trial)
    result = report(tmp_path, trials, EXPLORATORY)
    assert result.findings == [
        "Fewer than two seeds have completed, so differences between arms cannot be tested.",
        "`nysact-g`, rank: too few trials have completed for a comparison.",
        "`nysact-s`, rank: too few trials have completed for a comparison.",
    ]
    (page,) = [path for path in result.files if path.name == "report.md"]
    text = page.read_text()
    assert "Differences from sgd" in text and "A dash means that no test is possible" in text
    assert "significant" not in text and "Holm-corrected" not in text


def test_an_arm_that_cannot_be_tested_is_not_in_the_sentence_about_differences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    noise = {"sgd": (0.90, 0.91), "foof": (0.92, 0.90), "nysact-g": (0.91, 0.91)}
    monkeypatch.setattr(
        "folders.metrics",
        lambda trial, epoch: {"test/accuracy": noise[trial.arm.optimizer][trial.config.seed]},
    )
    trials = planned(seeds=2, arms=STUDY.arms[:3])
    for trial in trials[:-1]:  # the last arm has one seed
        write_trial(tmp_path, trial)
    findings = report(tmp_path, trials, EXPLORATORY).findings
    (sentence,) = [line for line in findings if "from sgd" in line]
    assert "foof" in sentence and "nysact-g" not in sentence


def test_claims_replace_the_findings_except_the_number_of_lost_trials(tmp_path: Path):
    first, *others = planned()
    write_trial(tmp_path, first, 1, DIVERGED, epoch=1, step=3)
    for trial in others:
        write_trial(tmp_path, trial)
    result = report(tmp_path, planned())
    assert len(result.claims) == len(STUDY.claims) > 0
    (finding,) = result.findings
    assert finding.startswith("Of 24 planned trials, 1 diverged")
    assert len(report(tmp_path, planned(), EXPLORATORY).findings) > 3


def test_terminal_shows_ten_findings_and_counts_the_rest(tmp_path: Path):
    lines = printed_lines([f"Sentence {i}." for i in range(13)], tmp_path)
    assert lines[9:11] == ["- Sentence 9.", "  The report has 3 more findings."]


def test_next_commands_name_the_folder_or_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PRECOND_OUT", raising=False)
    default = f"sqlite:///{tmp_path}/outputs/mlflow.db"
    assert screen.compare(Path("outputs"), default)[0][0] == "python -m studies ui"
    other = f"sqlite:///{tmp_path}/a b/mlflow.db"
    assert screen.compare(Path("a b"), other)[0][0] == "python -m studies ui --out 'a b'"
    assert screen.compare(Path("outputs"), "http://host:1")[0][0] == "http://host:1"
    assert screen.compare(Path("outputs"), None) == []
    for trial in planned(seeds=3)[len(STUDY.arms) :]:
        write_trial(tmp_path, trial)
    without_seed_0 = plan(tmp_path, planned(seeds=3)[len(STUDY.arms) :])
    assert STUDY.next_steps(without_seed_0) == []
    for trial in planned(seeds=1):
        write_trial(tmp_path, trial)
    assert "--seeds 4" in STUDY.next_steps(plan(tmp_path, planned(seeds=3)))[0][0]


def test_failed_trials_are_trained_again_before_a_seed_is_added(tmp_path: Path):
    trials = planned(seeds=1)
    for trial, status in zip(trials, [FAILED, DIVERGED, *[COMPLETED] * 6], strict=True):
        write_trial(tmp_path, trial, status=status)
    retry = ("the same command with --retry failed", "trains the failed trials again")
    add = ("the same command with --seeds 2", "trains one more seed of each arm")
    assert STUDY.next_steps(plan(tmp_path, trials)) == [retry, add]
    assert STUDY.next_steps(plan(tmp_path, trials[1:])) == [add]


def test_the_caption_explains_bold_only_if_a_mean_is_bold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for offset, bold in ((0.0, False), (0.05, True)):
        root = tmp_path / str(offset)

        def accuracies(trial, epoch, offset=offset):
            noise = 0.001 * ((trial.config.seed * 7 + len(trial.arm.label)) % 3)
            return {"test/accuracy": 0.9 + noise + offset * (trial.arm.optimizer == "foof")}

        monkeypatch.setattr("folders.metrics", accuracies)
        for trial in planned():
            write_trial(root, trial)
        listing = report(root, planned()).listing
        assert listing and bool(listing.bold) == ("Bold:" in listing.caption) == bold


def test_findings_are_texts_or_their_items_in_order():
    blocks = [
        Text("a", finding=True),
        Heading("b"),
        Text("c"),
        Text("", items=("d", "e"), finding=True),
    ]
    assert findings(blocks) == ["a", "d", "e"]


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (-0.001, "+.2f", "0.00"),
        (0.001, "+.2f", "0.00"),
        (-0.0001, "+.1%", "0.0%"),
        (-0.01, "+.2f", "-0.01"),
    ],
)
def test_value_that_rounds_to_zero_has_no_sign(value: float, kind: str, text: str):
    assert number(value, kind) == text
    assert (
        unit("test/accuracy").show(-1e-5, signed=True)
        == unit("test/accuracy").show(-1e-5)
        == "0.00"
    )
