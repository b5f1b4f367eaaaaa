"""The published results in studies/papers/*.yaml, and the errors that their reader reports."""

import re
from collections import Counter
from pathlib import Path

import pytest
from folders import STUDY

from precond import HyperparameterError
from studies.harness.design.options import Options
from studies.harness.kinds.study.plan import plan
from studies.harness.published.papers import PAPERS, about, load, paper
from studies.harness.published.strict_yaml import MAX_BYTES, YamlError, read

NYSACT, STEVE = load(PAPERS / "nysact.yaml"), load(PAPERS / "steve.yaml")
NYSACT_CELLS_BY_TABLE = {
    "Table 2": 96,
    "Table 3": 30,
    "Table 4": 24,
    "Table 5": 24,
    "Table 6": 16,
    "Section 1": 4,
    "Section 2": 4,
}


def cell_of(source, table, row, column):
    (cell,) = [c for c in source.cells if (c.table, c.row, c.column) == (table, row, column)]
    return cell


def test_files_of_the_papers_contain_each_published_cell_once():
    assert Counter(cell.table for cell in NYSACT.cells) == NYSACT_CELLS_BY_TABLE
    assert Counter(cell.table for cell in STEVE.cells) == {
        "Figure 1": 4,
        "Figure 2": 4,
        "Figure 3": 2,
    }
    for source in (NYSACT, STEVE):
        keys = [(c.table, c.row, c.column) for c in source.cells]
        assert len(set(keys)) == len(keys)
    assert sum(cell.outcome == "failed" for cell in NYSACT.cells) == 2 + 4
    assert sum(cell.outcome == "not reached" for cell in STEVE.cells) == 4


@pytest.mark.parametrize(
    ("table", "row", "column", "value", "spread", "optimizer", "workload"),
    [
        ("Table 2", "SGD", "CIFAR-10 ResNet-32 100", 92.80, 0.21, "sgd", "cifar10/resnet32"),
        (
            "Table 2",
            "KFAC",
            "CIFAR-10 DenseNet-121 200",
            95.57,
            0.07,
            "kfac",
            "cifar10/densenet121",
        ),
        ("Table 2", "SGD", "CIFAR-100 ResNet-110 100", 71.44, 1.90, "sgd", "cifar100/resnet110"),
        ("Table 2", "AdamW", "CIFAR-100 ResNet-32 200", 67.04, 1.08, "adamw", "cifar100/resnet32"),
        (
            "Table 2",
            "NysAct-s",
            "CIFAR-100 DenseNet-121 200",
            80.54,
            0.17,
            "nysact-s",
            "cifar100/densenet121",
        ),
        ("Table 3", "NysAct-g", "ResNet-110 Time", 1.36, None, "nysact-g", "cifar100/resnet110"),
        ("Table 4", "FOOF", "DeiT-S 100", 65.37, None, "foof", "imagenet/deit_s"),
        ("Table 5", "NysAct-S", "DeiT-S Time", 8.18, None, "nysact-s", "imagenet/deit_s"),
        ("Table 6", "KFAC", "DeiT-S Time", 1.37, None, "kfac", "imagenet/deit_s"),
        (
            "Section 1",
            "Shampoo",
            "ResNet-110 CIFAR-100",
            200.63,
            None,
            "shampoo",
            "cifar100/resnet110",
        ),
        ("Section 2", "SketchySGD", "Memory", 21.3, None, "sketchysgd", "cifar100/resnet110"),
    ],
)
def test_cells_equal_selected_cells_of_the_nysact_paper(
    table, row, column, value, spread, optimizer, workload
):
    cell = cell_of(NYSACT, table, row, column)
    assert (cell.value, cell.spread, cell.optimizer) == (value, spread, optimizer)
    assert cell.protocol["workload"] == workload and cell.as_released


def test_cells_equal_selected_results_of_the_steve_paper():
    assert cell_of(STEVE, "Figure 2", "STEVE", "number of epochs").value == 85
    cell = cell_of(STEVE, "Figure 1", "EKFAC", "target")
    assert (cell.outcome, cell.protocol["target"], cell.protocol["lr"]) == (
        "not reached",
        0.925,
        0.001,
    )
    assert cell_of(STEVE, "Figure 3", "STEVE", "wall-clock time").protocol["basis_interval"] == 50


def text_of_paper(name):
    for parent in Path(__file__).resolve().parents:
        if (parent / "shared/papers" / name).exists():
            return (parent / "shared/papers" / name).read_text()
    pytest.skip("shared/papers, with the texts of the papers, is not available")


def test_every_published_value_occurs_in_the_papers_text():
    """The extracted text has no plus-minus signs, so that 92.80 ± 0.21 is written 92.800.21."""
    for source, name in ((NYSACT, "nysact.txt"), (STEVE, "steve.txt")):
        text = text_of_paper(name)
        for cell in source.cells:
            if cell.value is None:
                continue
            decimals = range(3)
            forms = [
                f"{cell.value:.{d}f}" + (f"{cell.spread:.2f}" if cell.spread else "")
                for d in decimals
            ]
            assert any(re.search(rf"(?<![\d.]){re.escape(form)}(?!\d)", text) for form in forms), (
                cell
            )


def test_every_table_row_occurs_in_the_papers_text():
    """The comparison of whole rows also detects cells that are exchanged within a row."""
    text = re.sub(r"[†‡| ]+", " ", text_of_paper("nysact.txt").replace("✗", "failed"))
    rows = {}
    for cell in NYSACT.cells:
        if cell.table.startswith("Table"):
            part = cell.column.split()[0] if cell.table == "Table 2" else ""
            spread = f"{cell.spread:.2f}" if cell.spread else ""
            text_of_cell = cell.outcome or f"{cell.value:.2f}{spread}"
            if cell.column.endswith("Epochs") and cell.value:
                text_of_cell = f"{cell.value:.0f}"
            rows.setdefault((cell.table, part, cell.row), [cell.row]).append(text_of_cell)
    assert len(rows) == 16 + 5 + 6 + 6 + 4
    for key, cells in rows.items():
        assert " ".join(cells) in text, key


def test_cells_of_a_study_are_selected_by_table_name():
    assert Counter(c.table for c in about(NYSACT.cells, "Table 2, Figure 3, Table 4")) == {
        "Table 2": 96,
        "Table 4": 24,
    }
    assert {c.table for c in about(NYSACT.cells, "Tables 3, 6 and Section 1")} == {
        "Table 3",
        "Table 6",
        "Section 1",
    }
    assert about(NYSACT.cells, "Appendix C, Figure 7") == []
    assert (
        paper("NysAct") == NYSACT and paper("nobody") is None and paper("../papers/nysact") is None
    )


SMALL_FILE = """
paper: P
title: t
source: s
lost: []
tables:
  - table: Table 1
    metric: test/accuracy
    unit: percent
    margin: 0.3
    rows: {SGD: sgd as-released}
    columns: {first: {workload: digits/cnn, epochs: 2}}
    cells: {SGD: {first: [90, 0.1]}}
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{SGD: {first:", "{SDG: {first:", 'Table 1: row "SDG": unknown. Did you mean "SGD"?'),
        (
            "{SGD: {first:",
            "{SGD: {frist:",
            'cell "SGD" / "frist": column: unknown. Did you mean "first"?',
        ),
        ("sgd as-released", "sdg as-released", 'optimizer "sdg": unknown. Did you mean "sgd"?'),
        (
            "sgd as-released",
            "sgd as-releasd",
            'arm "as-releasd": unknown. Did you mean "as-released"?',
        ),
        ("epochs: 2", "epoch: 2", 'epoch: unknown. Did you mean "epochs"?'),
        ("margin: 0.3", "margins: 0.3", 'key "margins": unknown. Did you mean "margin"?'),
        ("margin: 0.3", "margin: -1", "margin = -1: must be a number > 0"),
        ("unit: percent", "unit: s", 'unit "s": unknown. Known: percent'),
        ("test/accuracy", "test/acuracy", 'Did you mean "test/accuracy"?'),
        (
            "[90, 0.1]",
            "[90, .nan]",
            "must be a number > 0, [number, spread], failed or not reached",
        ),
        ("[90, 0.1]", "true", '"SGD" / "first" = True: must be'),
        ("{SGD: {first: [90, 0.1]}}", "{SGD: 3}", 'cells "SGD": must be a mapping'),
        ("{SGD: sgd as-released}", "3", "rows: must be a mapping"),
        (
            "{first: {workload: digits/cnn, epochs: 2}}",
            "{first: x}",
            'columns "first": must be a mapping',
        ),
        ("digits/cnn", "digits", "workload = digits: must be dataset/model"),
        ("lost: []", "lst: []", 'key "lst": unknown. Did you mean "lost"?'),
        ("tables:", "x: &a 1\ntables:", "aliases (&, *) are not allowed"),
        (
            "title: t",
            "title: !!python/object:os.system t",
            "python/object:os.system is not allowed",
        ),
        ("title: t", "title: t\ntitle: u", 'key "title" occurs twice'),
        ("title: t", "title: " + "[" * 25 + "]" * 25, "nested deeper than 20"),
        ("title: t", "title: [" + "1," * 10_001 + "]", "more than 10000 values"),
        ("title: t", "title: t\n<<: {a: 1}", "merge keys (<<) are not allowed"),
        ("title: t", "? [a]\n: 1\ntitle: t", "keys must be scalars"),
        ("title: t", "title: 'open", "line"),
        ("title: t", "title: t\0", "unacceptable character"),
        ("title: t", "title: 2026-99-99", "month must be in 1..12"),
    ],
)
def test_error_in_a_papers_file_is_reported_in_one_line(tmp_path, old, new, message):
    file = tmp_path / "p.yaml"
    file.write_text(SMALL_FILE)
    assert len(load(file).cells) == 1
    file.write_text(SMALL_FILE.replace(old, new))
    with pytest.raises(YamlError) as caught:
        load(file)
    (line, *_) = [line for line in str(caught.value).splitlines() if message in line]
    assert line.startswith("p.yaml")


def test_all_errors_of_a_papers_file_are_reported_together(tmp_path):
    file = tmp_path / "p.yaml"
    file.write_text(
        SMALL_FILE.replace("sgd as-released", "sdg as-released")
        .replace("[90, 0.1]", "no")
        .replace("/cnn", "")
    )
    with pytest.raises(YamlError) as caught:
        load(file)
    assert len(str(caught.value).splitlines()) == 3


def test_yaml_file_that_is_too_large_or_missing_is_an_error(tmp_path):
    (tmp_path / "large.yaml").write_text("a" * (MAX_BYTES + 1))
    with pytest.raises(YamlError, match=f"{MAX_BYTES + 1} bytes; the limit is {MAX_BYTES}"):
        read(tmp_path / "large.yaml")
    with pytest.raises(YamlError, match=r"none\.yaml: cannot be read"):
        read(tmp_path / "none.yaml")


def test_invalid_papers_file_makes_the_plan_fail(tmp_path, monkeypatch):
    (tmp_path / "nysact.yaml").write_text(SMALL_FILE.replace("sgd as-released", "sdg as-released"))
    monkeypatch.setattr("studies.harness.published.papers.PAPERS", tmp_path)
    with pytest.raises(HyperparameterError, match='optimizer "sdg": unknown'):
        plan(STUDY, Options(only={}, levels={}, settings={}))
