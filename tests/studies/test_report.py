import io
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from folders import ARMS, STUDY, planned, run
from rich.console import Console

from studies.harness.evidence import ledger, statistics
from studies.harness.kinds.study import report
from studies.harness.kinds.study.study import Arm, Study
from studies.harness.report.document import tex
from studies.harness.report.figures import levels as level_figures
from trainables.store import DIVERGED

WRITTEN = ["report.md", "report.html", "report.tex", "trials.csv", "arms.csv", "differences.csv"]


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
    drawn = level_figures.draw(STUDY, frame, folder)
    return {path.name: path for path in [*report.write(STUDY, trials, frame, folder, drawn).paths, *drawn]}


def test_rendering_again_gives_the_same_bytes(root, tmp_path):
    first, second = render(root, tmp_path / "a"), render(root, tmp_path / "b")
    assert list(first) == [*WRITTEN, "rank.pdf", "rank.png", "rank.svg"]
    for name in first:
        assert first[name].read_bytes() == second[name].read_bytes(), name


def test_report_tells_what_was_measured(root, tmp_path):
    text = render(root, tmp_path)["report.md"].read_text()
    for fact in (STUDY.title, STUDY.citation, STUDY.claim, STUDY.falsifier, "batch size 64", "2 epochs", "cosine"):
        assert fact in text
    assert "1 of 3 diverged" in text
    assert "(rank.png)" in text
    assert "torch 2.15.0" in text and "mixed" not in text
    assert str(root) not in text and not re.search(r"\b20\d\d-\d\d", text)


def test_table_is_the_grouped_means_in_percent(root, tmp_path):
    text = render(root, tmp_path)["report.md"].read_text()
    row = re.search(
        r"\| nysact-s rank=10 \| (\d) \| \*{0,2}([\d.]+)\*{0,2} \| ([\d.]+) \| \[([\d.]+), ([\d.]+)\]", text
    )
    table = statistics.group(ledger.frame(planned(), root), "test/accuracy").set_index("arm")
    expected = table.loc["nysact-s rank=10"]
    assert row and int(row[1]) == expected["n"]
    shown = [float(cell) for cell in row.groups()[1:]]
    assert shown == [round(100 * expected[name], 2) for name in ("mean", "sd", "ci_lo", "ci_hi")]


def test_csv_keeps_every_digit(root, tmp_path):
    frame = ledger.frame(planned(), root)
    table = pd.read_csv(render(root, tmp_path)["trials.csv"])
    assert list(table["test/accuracy"]) == list(frame["test/accuracy"])
    assert list(table["trial_key"]) == list(frame["trial_key"])


def test_mixed_provenance_is_said(root, tmp_path):
    frame = ledger.frame(planned(), root)
    frame.loc[0, "torch"] = "2.11.0"
    text = report.write(STUDY, planned(), frame, tmp_path).paths[0].read_text()
    assert "torch mixed: 2.11.0 (1 trials), 2.15.0 (23 trials)" in text


def test_part_of_a_study_is_drawn_and_nothing_is_not(root, tmp_path):
    part = [trial for trial in planned() if trial.arm.label in {"foof", "nysact-s rank=5"}]
    assert len(render(root, tmp_path / "part", part)) == len(WRITTEN) + 3
    nothing = render(tmp_path, tmp_path / "nothing")
    assert list(nothing) == WRITTEN
    assert "rank.png" not in nothing["report.md"].read_text() and "<img" not in nothing["report.html"].read_text()


def test_console_table_fits_80_columns(root):
    output = io.StringIO()
    Console(width=80, file=output).print(report.console_table(STUDY, ledger.frame(planned(), root)))
    lines = output.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[0:2] for line in lines if "1 of 3 diverged" in line] == [["nysact-g", "rank=10"]]


def test_reports_weigh_the_evidence(root, tmp_path):
    """The synthetic arms differ by the same amount under each seed: nothing to test with, and so nothing is bold."""
    text = render(root, tmp_path)["report.md"].read_text()
    assert "smallest difference detectable with 80% power by one test at 5% = " in text
    assert "## Differences to sgd" in text and "| foof | 3 | +5.00 | [+5.00, +5.00] | - |" in text
    assert "- `nysact-s` rank 5 to 20: undecided, 20 has the best mean, no other level is told from it" in text
    assert "**" + "9" not in text


def noisy(frame, scale=0.001):
    noise = np.random.default_rng(0).normal(size=len(frame)) * scale
    return frame.assign(**{"test/accuracy": frame["test/accuracy"] + noise})


def test_only_what_survives_is_bold_in_every_format(root, tmp_path):
    frame = noisy(ledger.frame(planned(), root), 1e-4)
    paths = {path.name: path for path in report.write(STUDY, planned(), frame, tmp_path).paths}
    arms = pd.read_csv(paths["arms.csv"])
    assert list(arms.loc[arms["bold"], "arm"]) == ["foof", "nysact-s rank=20"]  # equal by construction: they share it
    shown = f"{100 * arms.set_index('arm').loc['foof', 'mean']:.2f}"
    assert f"| foof | 3 | **{shown}** |" in paths["report.md"].read_text()
    assert rf"\textbf{{{shown}}}" in paths["report.tex"].read_text()
    assert f"<strong>{shown}</strong>" in paths["report.html"].read_text()


def test_the_page_needs_no_other_file_and_is_well_formed(root, tmp_path):
    page = render(root, tmp_path)["report.html"].read_text()
    assert "data:image/svg+xml;base64," in page
    assert not re.search(r'(src|href)="(?!data:)', page) and "<script" not in page
    opened = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag, attrs):
            if tag not in {"meta", "img"}:
                opened.append(tag)

        def handle_endtag(self, tag):
            assert opened.pop() == tag

    Checker().feed(page)
    assert opened == []


def test_latex_is_a_table_with_as_many_cells_as_columns(root, tmp_path):
    text = render(root, tmp_path)["report.tex"].read_text()
    for columns, body in re.findall(r"\\begin\{tabular\}\{([lr]+)\}\n(.*?)\\end\{tabular\}", text, re.DOTALL):
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert len(rows) > 4
        assert {len(re.split(r"(?<!\\)&", row)) for row in rows} == {len(columns)}
    assert text.count("{") == text.count("}")
    assert not re.search(r"(?<!\\)[#_]|(?<!\\)%(?! )", text.partition("\n")[2].replace("ablation_test", ""))


@pytest.mark.parametrize("text", ["50% of a_b & c", "`x`", "92.80 ± 0.21", "{^~\\$#}<1"])
def test_what_latex_would_read_is_escaped(text):
    escaped = tex(text)
    assert not re.search(r"(?<!\\)[%_&#]|±|`", escaped)
    assert re.sub(r"\\texttt\{x\}", "`x`", escaped) == "`x`" or "`" not in text


def test_published_numbers_stand_beside_the_measured(root, tmp_path, monkeypatch):
    published = Study(
        **{**vars(STUDY), "table": "Table 1", "paper": "P", "arms": [ARMS[0], Arm(optimizer="foof", faithful=True)]}
    )
    trials = published.trials(seeds=range(3), recipe={"epochs": 2})
    for trial in trials:
        run(tmp_path / "outputs", trial)
    file = tmp_path / "p.yaml"
    file.write_text(
        "paper: P\ntitle: t\nsource: s\nlost: []\ntables:\n  - {table: Table 1, metric: test/accuracy, unit: percent,"
        " margin: 0.3, n: 5, rows: {SGD: sgd faithful, FOOF: foof faithful, Eva: eva faithful},"
        " columns: {digits: {workload: digits/cnn, epochs: 2}, far: {workload: cifar10/resnet32}},"
        " cells: {SGD: {digits: [85.3, 0.2]}, FOOF: {digits: [95, 0.2], far: 90}, Eva: {digits: 91}}}\n"
    )
    monkeypatch.setattr("studies.harness.published.papers.PAPERS", tmp_path)
    frame = ledger.frame(trials, tmp_path / "outputs")
    paths = {path.name: path for path in report.write(published, trials, frame, tmp_path / "report").paths}
    text = paths["report.md"].read_text()
    assert "**Coverage.** Of P's Table 1, 2 of 4 cells run; 1 compatible, 1 differs." in text
    assert "**Order.** Table 1, digits: Kendall's tau of 2 arms = +1.00" in text
    row = re.search(r"\| FOOF \| Table 1: digits \| 95\.00 ± 0\.20 \(n = 5\) % \| (.*) \|", text)
    assert row and row[1].endswith("differs")
    assert "| Eva | Table 1: digits | 91.00 (n = 5) % | - | - | - | not run |" in text and "far" not in text
    table = pd.read_csv(paths["published.csv"])
    assert list(table["verdict"]) == ["compatible", "differs", "not run", "not run"]
