"""Own study files and plugins on the command line: `studies run FILE`, `--plugin`, their errors."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from studies.ablation_rank import STUDY
from studies.harness.command import cli, manage
from trainables import plugins

STUDY_FILE = Path(__file__).parents[2] / "studies" / "ablation_rank.py"
OPTIMIZER = """
import torch
from trainables.plugins import optimizer, workload

@optimizer
def {name}(model, *, lr=0.1):
    return torch.optim.SGD(model.parameters(), lr=lr)
"""
STUDY_OF = """
from studies import Arm, CurveFigure, Study, main

STUDY = Study(
    name="{study}",
    title="A study",
    claims=[],
    arms=[Arm(optimizer="{name}"), Arm(optimizer="sgd")],
    figure=CurveFigure(),
    workload="digits/mlp",
)
if __name__ == "__main__":
    main(STUDY, plugin=__file__)
"""


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator:
    """Return a function that runs a command in this process, in an empty temporary folder."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str, study=None) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["studies", *arguments])
        code = cli.invoke(manage.GROUP if study is None else cli.command(*study))
        out, err = capsys.readouterr()
        return code, out, err

    yield command
    plugins.unregister()


def write(name: str, text: str) -> str:
    Path(name).write_text(text)
    return name


def own_study(path: str, name: str, study: str) -> str:
    return write(path, OPTIMIZER.format(name=name) + STUDY_OF.format(name=name, study=study))


def records(out: str) -> list[dict]:
    return [json.loads(line) for line in out.splitlines()]


def test_run_takes_own_files_and_names_in_one_command(run):
    """A file's optimizer needs no --plugin, and a trial that two studies need is planned once."""
    files = own_study("one.py", "one", "one"), own_study("two.py", "two", "two")
    flags = ["--seeds", "1", "--dry-run", "--json"]
    code, out, err = run("run", *files, "ablation_rank", "--workload", "digits/mlp", *flags)
    assert code == 0, err
    arms = [record["arm"] for record in records(out)]
    assert {"one", "two"} < set(arms)
    assert arms.count("sgd") == 1  # the trial of all three studies
    assert len({record["key"] for record in records(out)}) == len(arms)


def test_the_same_study_by_its_name_and_its_file_is_run_once(run):
    code, out, err = run("run", "ablation_rank", str(STUDY_FILE), "--seeds", "1", "--dry-run")
    assert code == 0, err
    assert out.count("14 trials (14 arms x 1 seed)") == 1


def test_a_file_that_cannot_be_run_is_an_error_of_one_line(run, tmp_path: Path):
    """All files are reported at once, with errors of other options that do not follow from them."""
    write("empty.py", "x = 1\n")
    write("imported.py", "from studies.ablation_rank import STUDY\n")
    write("broken.py", "\nimport no_such_module\n")
    unguarded = STUDY_OF.format(name="sgd", study="u").replace("if __name__", "if True or __name__")
    write("unguarded.py", unguarded)
    Path("folder").mkdir()
    names = ["empty.py", "imported.py", "broken.py", "unguarded.py", "folder/", "none.py", "rank"]
    before = sorted(tmp_path.iterdir())
    code, out, err = run("run", *names, "--seeds", "x", "--optimizers", "unknown")
    assert (code, out) == (2, "") and sorted(tmp_path.iterdir()) == before
    lines = err.splitlines()
    expected = [
        "error: empty.py: has no study; define one at the top level",
        "error: imported.py: has no study",
        "error: broken.py, line 2: ModuleNotFoundError: No module named 'no_such_module'",
        "error: unguarded.py, line 13: main is called when the file is imported: call it under `if",
        "error: folder/: is a folder; name a .py file",
        "error: none.py: No such file or directory",
        'error: study "rank": unknown. Known: ',
        "error: --seeds = x: must be",
    ]
    assert len(lines) == len(expected), err
    assert all(line.startswith(start) for line, start in zip(lines, expected, strict=True)), err


def test_two_files_with_different_studies_of_one_name_are_refused(run):
    own_study("a.py", "one", "same")
    own_study("b.py", "two", "same")
    code, _, err = run("run", "a.py", "b.py", "--dry-run")
    line = 'error: b.py: the study of a.py is called "same", too; give it another name\n'
    assert (code, err) == (2, line)


def test_a_plugin_of_the_command_line_joins_that_of_the_file(run):
    """`--plugin` adds a plugin to `main(STUDY, plugin=__file__)`; it does not replace it."""
    write("own.py", OPTIMIZER.format(name="one"))
    write("other.py", OPTIMIZER.format(name="two"))
    write("third.py", OPTIMIZER.format(name="three"))
    arguments = ["--optimizers", "one,two,three", "--plugin", "other.py", "--plugin", "third.py"]
    study = (STUDY, "own.py")
    code, out, err = run(*arguments, "--seeds", "1", "--dry-run", "--json", study=study)
    assert code == 0, err
    assert [record["arm"] for record in records(out)] == ["one", "two", "three"]


@pytest.mark.parametrize("named", ["--plugin", "run"])
def test_text_that_a_file_prints_is_not_part_of_the_json(run, named):
    """The file prints when it is imported and when the plan builds its optimizer."""
    path = own_study("mine.py", "mine", "own")
    text = (
        Path(path).read_text().replace("    return torch", "    print('built')\n    return torch")
    )
    write(path, "print('imported')\n" + text)
    flags = ["--seeds", "1", "--dry-run", "--json"]
    if named == "run":
        code, out, err = run("run", path, *flags)
    else:
        code, out, err = run("--plugin", path, "--optimizers", "mine", *flags, study=(STUDY,))
    assert code == 0, err
    assert "mine" in {record["arm"] for record in records(out)}
    assert "imported" in err
    plugins.unregister()
    code, out, _ = run("run", path, *flags[:-1])
    assert code == 0 and "imported" in out


# ---------------------------------------------------------------------- errors that follow


def test_two_plugins_with_one_name_are_an_error_of_one_line(run):
    write("a.py", OPTIMIZER.format(name="same"))
    write("b.py", OPTIMIZER.format(name="same") + "# another file\n")
    arguments = ["--plugin", "a.py", "--plugin", "b.py", "--optimizers", "same"]
    code, _, err = run(*arguments, study=(STUDY,))
    assert code == 2
    assert err == 'error: --plugin b.py: "same" is registered by a.py, too; rename one of them\n'


FOLLOWING = {
    "plugin": (
        ["--plugin", "none.py", "--optimizers", "mine", "--workload", "toy/net", "--set", "zap=1"],
        "--plugin none.py: No such file",
    ),
    "workload": (["--workload", "digit/cnn", "--only", "rank=15"], 'Did you mean "digits/cnn"'),
    "optimizer": (["--optimizers", "ownn,sgd", "--set", "zap=1"], 'Did you mean "own"'),
    "setting": (["--optimizers", "own", "--set", "momentum=0.7"], "(own) has this setting"),
}


@pytest.mark.parametrize("option", FOLLOWING)
def test_errors_that_follow_from_an_error_of_another_option_are_left_out(run, option: str):
    arguments, line = FOLLOWING[option]
    write("own.py", OPTIMIZER.format(name="own"))
    code, out, err = run(*arguments, study=(STUDY, "own.py"))
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert line in err and not Path("outputs").exists()


def test_independent_errors_are_reported_with_that_of_a_plugin(run):
    code, _, err = run("--plugin", "none.py", "--seeds", "x", study=(STUDY,))
    assert code == 2 and err.count("\n") == 2 and "--seeds = x" in err


def test_a_setting_that_no_optimizer_of_an_own_study_has_is_one_error(run):
    own_study("own.py", "own", "own")
    study = (plugins.load(Path("own.py"), registers=False).modules[0].STUDY, "own.py")
    code, _, err = run("--optimizers", "own", "--set", "momentum=0.7", study=study)
    assert (code, err.count("\n")) == (2, 1) and "--set momentum: none of the selected" in err
