"""Imports of modules that lie in a plugin's folder, whose code would be in no key."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainables import plugins
from trainables.plugins import PluginError

OPTIMIZER = """
import torch
from trainables.plugins import optimizer

@optimizer
def mine(model, *, lr=0.1):
    return torch.optim.SGD(model.parameters(), lr=lr)
"""


@pytest.fixture(autouse=True)
def _modules() -> Iterator[None]:
    before = set(sys.modules)
    yield
    plugins.unregister()
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("fold", "helper", "nsp", "sub", "helper_lr"):
            del sys.modules[name]


def write(root: Path, *files: str) -> None:
    """Write files, each of which defines `scale`."""
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("scale = 2.0\n")


def refusal(path: Path, file: Path, statement: str) -> str:
    """Return the error of a plugin, one file of which contains an import."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{statement}\n{OPTIMIZER}")
    with pytest.raises(PluginError) as error:
        plugins.load(path)
    text = str(error.value)
    assert "\n" not in text and text.startswith(f"{file}, line ")
    assert not [name for name in sys.modules if name.startswith("plugin_")]
    return text


IN_FUNCTION = "def late():\n    "
FOLDERS = {
    "by the folder's name": ("opt.py", "from fold.helper import scale", ".helper import ..."),
    "in a function": ("opt.py", IN_FUNCTION + "import fold.helper", ". import helper"),
    "a module of the package": ("opt.py", "from fold import helper", ". import ..."),
    "by a place in the folder": ("sub/__init__.py", "from helper import scale", "..helper import"),
    "an import of a module": ("opt.py", "import helper as h", ". import helper"),
    "a package": ("opt.py", "from sub.deep.x import scale", ".sub.deep.x import ..."),
}


@pytest.mark.parametrize("on_path", [True, False])
@pytest.mark.parametrize("case", FOLDERS)
def test_a_folder_that_imports_its_own_module_absolutely_is_refused(
    case: str, on_path: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file, statement, correct = FOLDERS[case]
    if on_path:
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.syspath_prepend(tmp_path / "fold")
    elif statement.startswith(IN_FUNCTION):
        return  # the function raises an error when it is called
    write(
        tmp_path / "fold", "helper.py", "sub/__init__.py", "sub/deep/__init__.py", "sub/deep/x.py"
    )
    text = refusal(tmp_path / "fold", tmp_path / "fold" / file, statement)
    assert f"write `from {correct}" in text and "create" not in text


def test_a_module_that_an_imported_module_imports_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(tmp_path / "fold")
    write(tmp_path / "fold", "helper.py")
    (tmp_path / "fold" / "opt.py").write_text("from .sub import x\n")
    (tmp_path / "fold" / "sub").mkdir()
    (tmp_path / "fold" / "sub" / "__init__.py").write_text("")
    file = tmp_path / "fold" / "sub" / "x.py"
    text = refusal(tmp_path / "fold", file, "\nfrom helper import scale")
    assert "line 2: helper.py lies in the folder" in text
    assert "write `from ..helper import ...`" in text


def test_files_that_are_not_imported_may_import_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(tmp_path / "fold")
    write(tmp_path / "fold", "helper.py")
    (tmp_path / "fold" / "opt.py").write_text(OPTIMIZER)
    (tmp_path / "fold" / "_draft.py").write_text("import helper\n")
    (tmp_path / "fold" / "_broken.py").write_text("def f(:\n")
    assert plugins.load(tmp_path / "fold").functions


SINGLE = {
    "a module": (
        "helper_lr.py",
        "import helper_lr",
        ("helper_lr.py lies", "`from . import helper"),
    ),
    "names": ("helper_lr.py", "from helper_lr import scale", ("`from .helper_lr import ...`",)),
    "in a function": ("helper_lr.py", IN_FUNCTION + "import helper_lr", ("helper_lr.py lies",)),
    "a package": ("nsp/__init__.py", "import nsp", ("nsp lies", "`from . import nsp`")),
    "a module of a package": ("nsp/x.py", "import nsp.x", ("nsp lies", "`from .nsp import x`")),
    "without __init__.py": (
        "nsp/x.py",
        "from nsp import x",
        ("put both into a folder, create nsp/__init__.py, write `from .nsp import ...` and name",),
    ),
    "by the folder's name": (
        "helper.py",
        "from fold.helper import scale",
        ("helper.py lies beside the plugin", "write `from .helper import ...`"),
    ),
}


@pytest.mark.parametrize("on_path", [True, False])
@pytest.mark.parametrize("case", SINGLE)
def test_a_single_file_that_imports_a_module_beside_it_is_refused(
    case: str, on_path: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Python finds the module if the file runs as a script, but not in a worker."""
    file, statement, parts = SINGLE[case]
    if on_path:
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.syspath_prepend(tmp_path / "fold")
    elif statement.startswith(IN_FUNCTION):
        return  # the function raises an error when it is called
    write(tmp_path / "fold", file, "math.py")
    path = tmp_path / "fold" / "mine.py"
    text = refusal(path, path, f"import math\n{statement}")
    assert all(part in text for part in parts)
    assert "put both into a folder, " in text and text.endswith("name the folder with --plugin")
    assert ("create" in text) == (file == "nsp/x.py")


@pytest.mark.parametrize("statement", ["from .helper import scale", "from . import helper"])
def test_a_relative_import_in_a_single_file_gives_the_advice_to_use_a_folder(
    statement: str, tmp_path: Path
):
    write(tmp_path, "helper.py")
    text = refusal(tmp_path / "mine.py", tmp_path / "mine.py", statement)
    assert text.endswith(
        "helper.py lies beside the plugin, so its code would not be part of the keys: put both into "
        "a folder and name the folder with --plugin"
    )


def test_a_file_that_imports_itself_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "helper.py"
    text = refusal(path, path, f"{IN_FUNCTION}import helper")
    assert "the file imports itself as helper: delete this import" in text


def test_installed_packages_below_the_folder_of_a_plugin_can_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A single file often lies beside the folder `.venv`."""
    monkeypatch.syspath_prepend(tmp_path / "packages")
    write(tmp_path, "packages/helper_lr.py", "packages/helper_lr-1.dist-info/RECORD")
    (tmp_path / "mine.py").write_text(f"import helper_lr\n{OPTIMIZER}")
    assert plugins.load(tmp_path / "mine.py").functions
