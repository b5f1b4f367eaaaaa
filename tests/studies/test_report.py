"""The files of a study's report: Markdown, HTML, LaTeX, CSV files and figures."""

import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from folders import ARMS, STUDY, planned, report, write_trial
from rich.console import Console

from studies.harness.command import screen
from studies.harness.design.arms import Arm
from studies.harness.evidence import arms, ledger
from studies.harness.kinds.study.study import Study
from studies.harness.report import protocol
from studies.harness.report.document import (
    Details,
    Heading,
    Picture,
    Table,
    Text,
    findings,
    fold,
    tex,
    write,
)
from studies.harness.tracking.page import description
from trainables.store import DIVERGED

REPORT_FILES = [
    "report.md",
    "report.html",
    "report.tex",
    "claims.csv",
    "trials.csv",
    "arms.csv",
    "differences.csv",
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("outputs")
    for trial in planned():
        if trial == planned()[3]:
            write_trial(root, trial, 1, DIVERGED, epoch=1, step=3)
        else:
            write_trial(root, trial)
    return root


def render(root, trials=None, study=STUDY):
    return {path.name: path for path in report(root, trials or planned(), study).files}


def change_frame(monkeypatch, change):
    """Apply the function `change` to the ledger frame from which reports are computed."""
    original = ledger.frame

    def frame(*arguments, **options):
        table = original(*arguments, **options)
        return table if options else change(table)

    monkeypatch.setattr(ledger, "frame", frame)


def test_second_rendering_gives_the_same_bytes(root):
    first = {name: path.read_bytes() for name, path in render(root).items()}
    second = render(root)
    assert list(first) == [*REPORT_FILES, "rank.pdf", "rank.png", "rank.svg"] == list(second)
    for name in first:
        assert first[name] == second[name].read_bytes(), name


def test_report_contains_the_facts_and_the_protocol(root):
    text = render(root)["report.md"].read_text()
    for fact in (
        STUDY.title,
        STUDY.citation,
        "batch size 64",
        "2 epochs",
        "cosine",
    ):
        assert fact in text
    assert "1 of 3 diverged" in text
    assert "(rank.png)" in text
    assert "torch 2.15.0" in text and "mixed" not in text
    assert str(root) not in text and not re.search(r"\b20\d\d-\d\d", text)


def test_report_of_a_user_defined_study_names_no_paper(root):
    parts = {"claims": STUDY.claims, "arms": STUDY.arms, "figure": STUDY.figure}
    study = Study(name="ours", workload="digits/cnn", title="t", **parts)
    assert (study.paper, study.table, study.citation) == ("ours", "", "ours")
    note = description(study, study.workload, planned())
    texts = [render(root, study=study)["report.md"].read_text(), note]
    for text in texts:
        assert "Claims" in text and STUDY.claims[0].text in text
        assert "Reproduces" not in text
    assert "Reproduces" in description(STUDY, STUDY.workload, planned())


def test_claims_of_this_project_are_not_attributed_to_the_paper(root):
    study = replace(STUDY, claimed_by_paper=False)
    text = render(root, study=study)["report.md"].read_text()
    assert f"**About.** {study.citation}. The claims are this project's, not the paper's." in text
    assert "Reproduces" not in text
    assert f"**Reproduces.** {STUDY.citation}" in render(root)["report.md"].read_text()


def test_table_contains_the_means_in_percent(root):
    text = render(root)["report.md"].read_text()
    row = re.search(
        r"\| nysact-s rank=10 \| (\d) \| \*{0,2}([\d.]+)\*{0,2} \| ([\d.]+) \| \[([\d.]+), ([\d.]+)\]",
        text,
    )
    table = arms.group(ledger.frame(planned(), root), "test/accuracy").set_index("arm")
    expected = table.loc["nysact-s rank=10"]
    assert row and int(row[1]) == expected["n"]
    cells = [float(cell) for cell in row.groups()[1:]]
    assert cells == [round(100 * expected[name], 2) for name in ("mean", "sd", "ci_lo", "ci_hi")]


def test_csv_has_full_precision(root):
    frame = ledger.frame(planned(), root)
    table = pd.read_csv(render(root)["trials.csv"])
    assert list(table["test/accuracy"]) == list(frame["test/accuracy"])
    assert list(table["trial_key"]) == list(frame["trial_key"])


def test_mixed_provenance_is_reported(root, monkeypatch):
    change_frame(monkeypatch, lambda frame: frame.assign(torch=["2.11.0", *frame["torch"][1:]]))
    text = render(root)["report.md"].read_text()
    assert "torch mixed: 2.11.0 (1 trial), 2.15.0 (23 trials)" in text


def test_partial_study_has_a_figure_and_a_study_without_trial_folders_has_none(root, tmp_path):
    part = [trial for trial in planned() if trial.arm.label in {"foof", "nysact-s rank=5"}]
    assert len(render(root, part)) == len(REPORT_FILES) + 3
    empty = render(tmp_path)
    assert list(empty) == REPORT_FILES
    assert "rank.png" not in empty["report.md"].read_text()
    assert "<img" not in empty["report.html"].read_text()


def test_terminal_table_fits_80_columns_and_equals_the_reports_table(root):
    listing, output = report(root, planned()).listing, io.StringIO()
    Console(width=80, file=output).print(screen.table(listing))
    lines = output.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[0:2] for line in lines if "1 of 3 diverged" in line] == [
        ["nysact-g", "rank=10"]
    ]
    text = render(root)["report.md"].read_text().replace("**", "")
    assert all(f"| {' | '.join(row[:5])} |" in text for row in listing.rows)


def test_constant_differences_have_p_values(root):
    """Two arms differ by the same amount for each seed, and one image of 600 is 0.17 points."""
    text = render(root)["report.md"].read_text()
    assert "the smallest difference that a paired t-test detects with 80% power after" in text
    assert "One example of the evaluated set is 0.17 percentage points" in text
    assert "<summary>Differences from sgd</summary>" in text
    assert "| foof | 3 | +5.00 | [+4.83, +5.17] | < 0.001 |" in text
    assert "- `nysact-s`, rank 5 to 20: rank 20 has the best mean, at the edge" in text


def test_pair_with_a_diverged_trial_has_no_mean_difference(root):
    text = render(root)["report.md"].read_text()
    assert re.search(r"\| nysact-g rank=10 \| 3 \| better on 2 of 3 \| - \| 0\.\d+ \|", text)
    assert "counts as the worst result in every comparison of arms" in text


def add_noise(frame, scale=0.001):
    noise = np.random.default_rng(0).normal(size=len(frame)) * scale
    return frame.assign(**{"test/accuracy": frame["test/accuracy"] + noise})


def test_only_significant_means_are_bold_in_each_format(root, monkeypatch):
    change_frame(monkeypatch, lambda frame: add_noise(frame, 1e-4))
    paths = render(root)
    table = pd.read_csv(paths["arms.csv"])
    # These two arms have the same mean by construction.
    assert list(table.loc[table["bold"], "arm"]) == ["foof", "nysact-s rank=20"]
    mean = f"{100 * table.set_index('arm').loc['foof', 'mean']:.2f}"
    text = paths["report.md"].read_text()
    assert f"| foof | 3 | **{mean}** |" in text and "| best epoch (optimistic) |" in text
    beaten = ["sgd", *(f"nysact-{name}" for name in ("g rank=5", "g rank=20", "s rank=5"))]
    losers = f"{', '.join(beaten)} and nysact-s rank=10"
    assert re.search(rf"\| foof \|.*\| {losers} \|", text)  # the column "better than"
    assert rf"\textbf{{{mean}}}" in paths["report.tex"].read_text()
    assert f"<strong>{mean}</strong>" in paths["report.html"].read_text()
    assert "no arm is significantly better than foof or nysact-s rank=20 (" in text
    assert f"foof is significantly better than {losers}; nysact-s rank=20 is" in text


def test_html_report_is_self_contained_and_well_formed(root):
    page = render(root)["report.html"].read_text()
    assert "data:image/svg+xml;base64," in page
    assert not re.search(r'(src|href)="(?!data:)', page) and "<script" not in page
    open_tags = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag, attrs):
            if tag not in {"meta", "img"}:
                open_tags.append(tag)

        def handle_endtag(self, tag):
            assert open_tags.pop() == tag

    Checker().feed(page)
    assert open_tags == []


def test_report_has_the_results_first_and_everything_else_in_closed_sections(root):
    """The visible part has the figure, the table and at most two lines of notes, in this order."""
    paths = render(root)
    text = paths["report.md"].read_text()
    visible = re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL)
    order = ("## Claims", "**Reproduces.**", "(rank.png)", "| arm | n |")
    places = [visible.index(part) for part in order]
    assert places == sorted(places)
    notes = re.findall(r"^\*(.*)\*$", visible, re.MULTILINE)
    assert len(notes) == 1 and len(notes[0]) < 2 * 140
    assert "batch size" not in visible and "paired t-tests" not in visible
    titles = re.findall(r"<details>\n(<summary>.*)</summary>", text)
    expected = [
        "The decisions in numbers",
        "Stability by rank",
        "Notes on the table",
        "Differences from sgd",
        "Differences from the recipe's values",
        "Comparison of the levels",
        "Preconditioned layers",
        "Protocol",
        "Tuning",
        "Provenance",
    ]
    assert titles == [f"<summary>{title}" for title in expected]
    page = paths["report.html"].read_text()
    assert re.findall(r"<details>\n(<summary>.*)</summary>", page) == titles
    assert page.count("</details>") == len(titles)


def test_sections_contain_all_kinds_of_blocks_in_each_format(tmp_path):
    table = Table("inner", ["a"], [["1"]])
    blocks = [
        Text("Visible.", finding=True),
        Details("Closed <b>", (Text("Hidden.", finding=True), table, Details("Inner", (table,)))),
        Details("Printed", (Text("Shown.", finding=True), Picture("p", "a picture")), True),
    ]
    (tmp_path / "p.svg").write_text("<svg/>")
    paths = write(tmp_path, "t", blocks, [tmp_path / "p.svg"], {})
    texts = {path.suffix: path.read_text() for path in paths}
    assert findings(blocks) == ["Visible.", "Shown."]
    assert (
        "<details>\n<summary>Closed &lt;b&gt;</summary>\n\nHidden.\n\n| a |\n| --- |\n| 1 |\n\n"
        "<details>\n<summary>Inner</summary>\n\n| a |\n| --- |\n| 1 |\n\n</details>\n\n</details>\n"
    ) in texts[".md"]
    assert (
        "<summary>Printed</summary>\n\nShown.\n\n![a picture](p.png)\n\n</details>" in texts[".md"]
    )
    page = texts[".html"]
    assert "<summary>Closed &lt;b&gt;</summary>\n<p>Hidden.</p>" in page
    assert page.count("<details>") == page.count("</details>") == 3 and "<img" in page
    assert texts[".tex"].count(r"\begin{tabular}") == 2


def test_each_heading_begins_a_closed_section():
    a, b, c = Text("a"), Text("b"), Text("c")
    sections = fold([Heading("one"), a, b, Heading("two"), c], on_terminal=True)
    assert sections == [Details("one", (a, b), True), Details("two", (c,), True)]
    assert fold([]) == []


def test_protocol_lists_shared_hyperparameters_once():
    (settings, *_) = protocol.section(STUDY, planned()).blocks
    assert isinstance(settings, Text)
    assert settings.items == ("all optimizers: lr=0.1",)
    arms = [Arm(optimizer="sgd", overrides={"momentum": 0.5}), Arm(optimizer="adam")]
    (settings, *_) = protocol.section(STUDY, planned(arms=arms)).blocks
    assert isinstance(settings, Text)
    assert settings.items == ("all optimizers: lr=0.1", "`sgd`: momentum=0.5")


def test_assumptions_do_not_contradict_the_sentence_before_them():
    """DeiT-S has a value that the paper states and that its released code contradicts."""
    trials = planned(seeds=1, arms=[Arm(optimizer="sgd")], workload="imagenet/deit_s")
    texts = [text for text in protocol.section(STUDY, trials).blocks if isinstance(text, Text)]
    (assumed,) = [text for text in texts if text.label == "Assumed"]
    assert "or that its released code contradicts" in assumed.text
    assert any("as in the paper" in item for item in assumed.items)


def test_latex_rows_have_as_many_cells_as_columns(root):
    text = render(root)["report.tex"].read_text()
    for columns, body in re.findall(
        r"\\begin\{tabular\}\{([lr]+)\}\n(.*?)\\end\{tabular\}", text, re.DOTALL
    ):
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert len(rows) > 1  # the header and a row for each result
        assert {len(re.split(r"(?<!\\)&", row)) for row in rows} == {len(columns)}
    assert text.count("{") == text.count("}")
    assert not re.search(
        r"(?<!\\)[#_]|(?<!\\)%(?! )", text.partition("\n")[2].replace("ablation_test", "")
    )


@pytest.mark.parametrize("text", ["50% of a_b & c", "`x`", "92.80 ± 0.21", "{^~\\$#}<1"])
def test_latex_special_characters_are_escaped(text):
    escaped = tex(text)
    assert not re.search(r"(?<!\\)[%_&#]|±|`", escaped)
    assert re.sub(r"\\texttt\{x\}", "`x`", escaped) == "`x`" or "`" not in text


def test_report_compares_published_and_measured_results(tmp_path, monkeypatch):
    published = replace(
        STUDY,
        table="Table 1",
        paper="P",
        arms=[ARMS[0], Arm(optimizer="foof", as_released=True)],
    )
    trials = published.trials(seeds=range(3), recipe={"epochs": 2})
    for trial in trials:
        write_trial(tmp_path / "outputs", trial)
    file = tmp_path / "p.yaml"
    file.write_text(
        "paper: P\ntitle: t\nsource: s\nlost: []\ntables:\n  - {table: Table 1, metric: test/accuracy, unit: percent,"
        " margin: 0.3, n: 5, rows: {SGD: sgd as-released, FOOF: foof as-released, Eva: eva as-released},"
        " columns: {digits: {workload: digits/cnn, epochs: 2}, far: {workload: cifar10/resnet32}},"
        " cells: {SGD: {digits: [85.3, 0.2]}, FOOF: {digits: [95, 0.2], far: 90}, Eva: {digits: 91}}}\n"
    )
    monkeypatch.setattr("studies.harness.published.papers.PAPERS", tmp_path)
    paths = render(tmp_path / "outputs", trials, published)
    text = paths["report.md"].read_text()
    assert (
        "**Coverage.** Of the published results in P, Table 1, 2 of 4 were measured with the "
        "published protocol; verdicts: 1 compatible, 1 differs."
    ) in text
    assert (
        "**Order of the arms.** Table 1, digits: Kendall's tau between the published and the "
        "measured order of 2 arms is +1.00. Pairs of arms that are significantly different "
        "(corrected over all pairs, 5% level): 1 in the published order and 0 in the reverse order"
    ) in text
    row = re.search(r"\| FOOF \| Table 1: digits \| 95\.00 ± 0\.20 \(n = 5\) % \| (.*) \|", text)
    assert row and row[1].endswith("differs (also after Holm's correction)")
    assert "| Eva | Table 1: digits | 91.00 (n = 5) % | - | - | not run |" in text
    assert (
        "**Differences.** Results that differ at the 5% level: 1 of 2 that are tested. If all were "
        "true replications, at most 0.1 would differ by chance on average."
    ) in text
    assert "wider than the margin: 2." in text
    assert "far" not in text  # the column of a workload that was not run
    table = pd.read_csv(paths["published.csv"])
    assert list(table["verdict"]) == ["compatible", "differs", "not run", "not run"]
