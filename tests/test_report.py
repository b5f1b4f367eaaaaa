import io
import re

import pandas as pd
import pytest
from folders import STUDY, planned, run
from rich.console import Console

from studies.harness import figures, ledger, report, statistics
from trainables.store import DIVERGED


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("outputs")
    for trial in planned():
        if trial == planned()[3]:
            run(root, trial, 1, DIVERGED, epoch=1, step=3)
        else:
            run(root, trial)
    return root


def render(root, folder, trials=None):
    trials = planned() if trials is None else trials
    frame = ledger.frame(trials, root)
    return [*report.write(STUDY, trials, frame, folder), *figures.draw(STUDY, frame, folder)]


def test_rendering_again_gives_the_same_bytes(root, tmp_path):
    first, second = render(root, tmp_path / "a"), render(root, tmp_path / "b")
    assert [path.name for path in first] == ["report.md", "trials.csv", "rank.pdf", "rank.png"]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_report_tells_what_was_measured(root, tmp_path):
    text = render(root, tmp_path)[0].read_text()
    for fact in (STUDY.title, STUDY.artefact, STUDY.claim, STUDY.falsifier, "batch size 64", "2 epochs", "cosine"):
        assert fact in text
    assert "1 of 3 diverged" in text
    assert "(rank.png)" in text
    assert "torch 2.15.0" in text and "mixed" not in text
    assert str(root) not in text and not re.search(r"\b20\d\d-\d\d", text)


def test_table_is_the_grouped_means_in_percent(root, tmp_path):
    text = render(root, tmp_path)[0].read_text()
    row = re.search(r"\| nysact-s rank=10 \| (\d) \| ([\d.]+) \| ([\d.]+) \| \[([\d.]+), ([\d.]+)\]", text)
    table = statistics.group(ledger.frame(planned(), root), "test/accuracy").set_index("arm")
    expected = table.loc["nysact-s rank=10"]
    assert row and int(row[1]) == expected["n"]
    shown = [float(cell) for cell in row.groups()[1:]]
    assert shown == [round(100 * expected[name], 2) for name in ("mean", "sd", "ci_lo", "ci_hi")]


def test_csv_keeps_every_digit(root, tmp_path):
    frame = ledger.frame(planned(), root)
    table = pd.read_csv(render(root, tmp_path)[1])
    assert list(table["test/accuracy"]) == list(frame["test/accuracy"])
    assert list(table["trial_key"]) == list(frame["trial_key"])


def test_mixed_provenance_is_said(root, tmp_path):
    frame = ledger.frame(planned(), root)
    frame.loc[0, "torch"] = "2.11.0"
    text = report.write(STUDY, planned(), frame, tmp_path)[0].read_text()
    assert "torch **mixed**: 2.11.0 (1 trials), 2.15.0 (23 trials)" in text


def test_part_of_a_study_is_drawn_and_nothing_is_not(root, tmp_path):
    part = [trial for trial in planned() if trial.arm.label in {"foof", "nysact-s rank=5"}]
    assert len(render(root, tmp_path / "part", part)) == 4
    nothing = render(tmp_path, tmp_path / "nothing")
    assert [path.name for path in nothing] == ["report.md", "trials.csv"]
    assert "rank.png" not in nothing[0].read_text()


def test_console_table_fits_80_columns(root):
    output = io.StringIO()
    Console(width=80, file=output).print(report.console_table(STUDY, ledger.frame(planned(), root)))
    lines = output.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[0:2] for line in lines if "1 of 3 diverged" in line] == [["nysact-g", "rank=10"]]
