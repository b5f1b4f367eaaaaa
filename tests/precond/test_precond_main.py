"""`python -m precond` prints the card of every registered optimizer."""

from __future__ import annotations

import subprocess
import sys

import precond
from precond.__main__ import COLUMNS, main
from precond.algorithm import MODES
from precond.registry import REGISTRY


def test_every_optimizer_is_listed_in_80_columns(capsys):
    main([])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line for line in lines if line in precond.available()] == precond.available()
    text = " ".join(" ".join(lines).split())
    for entry in REGISTRY.values():
        if entry.card is not None:
            assert f"cost {entry.card.cost} memory {entry.card.memory} deviations" in text
            assert entry.card.deviations in text


def test_the_markdown_tables_list_every_optimizer(capsys):
    main(["--markdown"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(rows) == 2 * (2 + len(precond.available()))
    cells = [row.replace("\\|", "").count("|") for row in rows]
    half = len(rows) // 2
    assert set(cells[:half]) == {len(COLUMNS) + 2}
    assert set(cells[half:]) == {len(MODES) + 2}
    assert (
        "| `adahessian` | yes | yes | yes | refused | refused | refused | refused | refused |"
        in rows
    )


def test_an_entry_without_a_card_has_dashes(capsys, monkeypatch):
    import dataclasses

    monkeypatch.setitem(REGISTRY, "foof", dataclasses.replace(REGISTRY["foof"], card=None))
    main(["--markdown"])
    assert "| `foof` | - | - | - | - |" in capsys.readouterr().out


def test_precond_runs_as_a_module():
    result = subprocess.run(
        [sys.executable, "-m", "precond"], capture_output=True, text=True, check=True, timeout=60
    )
    assert "nysact-s" in result.stdout
