"""The hash of the code that a plugin's function uses: which edits change it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from trainables import plugins
from trainables.plugins import packages
from trainables.plugins.content import code_hash_of
from trainables.plugins.sources import read
from trainables.workloads import resolve

ROOT = Path(__file__).parents[2]

FILE = '''"""An optimizer, a workload and a study."""

import math

import numpy as np
import torch
from sklearn.datasets import make_moons
from torch import nn

from studies import Arm, CurveFigure, Study
from trainables.plugins import optimizer, workload

# The decay of the average.
DECAY = 0.9
SCALES = {"lr": 1.0}
EPOCHS = 20
OPTIONS: tuple[float, ...] = (1e-8, 0.5)


def norm(tensor):
    """Return the norm."""
    return tensor.norm() + OPTIONS[0]


def unrelated(x):
    return x + 1


class Base(torch.optim.Optimizer):
    def scaled(self, tensor):
        return tensor / norm(tensor)


class Mine(Base):
    """Update by the scaled gradient."""

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                # Only parameters with a gradient.
                if p.grad is not None:
                    p.sub_(self.scaled(p.grad), alpha=DECAY * group["lr"] * SCALES["lr"])


def moons():
    inputs, labels = make_moons(100, noise=0.2, random_state=0)
    inputs, labels = np.float32(inputs), np.int64(labels)
    inputs, labels = torch.tensor(inputs), torch.tensor(labels)
    return inputs, labels, inputs, labels


@workload("moons/mlp", data=moons, batch_size=50, epochs=EPOCHS, optimizers={"mine": {"lr": 1.0}})
def mlp():
    return nn.Sequential(nn.Linear(2, 2 * width()))


def width():
    return int(math.sqrt(4))


@optimizer
def mine(model, *, lr: float = 0.01):
    return Mine(model.parameters(), {"lr": lr})


@optimizer
def other(model, *, lr: float = 0.1):
    return torch.optim.SGD(model.parameters(), lr=lr)


STUDY = Study(
    name="mine",
    title="Mine and SGD",
    claims=[],
    arms=[Arm(optimizer="mine"), Arm(optimizer="sgd")],
    figure=CurveFigure(references=("sgd",)),
)

if __name__ == "__main__":
    from studies import main

    main(STUDY, plugin=__file__)
'''

UNCHANGED = {
    "comment": ("# The decay of the average.", "# The decay."),
    "comment in the class": ("                # Only parameters with a gradient.\n", ""),
    "blank lines": ("\n\ndef norm", "\n\n\n\n\ndef norm"),
    "docstring of the file": ('"""An optimizer, a workload and a study."""', '"""Mine."""'),
    "docstring of a used function": ('    """Return the norm."""\n', ""),
    "docstring of the class": ('"""Update by the scaled gradient."""', '"""Update."""'),
    "layout": (
        'Mine(model.parameters(), {"lr": lr})',
        'Mine(\n model.parameters(), {"lr": lr},\n)',
    ),
    "quotes": ('{"lr": lr}', "{'lr': lr}"),
    "spelling of a number": ("DECAY = 0.9", "DECAY = 0.90"),
    "unrelated function": ("return x + 1", "return x + 2"),
    "unrelated function removed": ("def unrelated(x):\n    return x + 1\n", ""),
    "unrelated constant": ("EPOCHS = 20", "EPOCHS = 30"),
    "data of the workload": ("noise=0.2", "noise=0.3"),
    "recipe of the workload": ("batch_size=50", "batch_size=25"),
    "model of the workload": ("2 * width()", "3 * width()"),
    "another workload": (
        "def width()",
        '@workload("moons/linear", data=moons, batch_size=9, epochs=1)\n'
        "def linear():\n    return nn.Linear(2, 2)\n\n\ndef width()",
    ),
    "import of the workload": ("import numpy as np", "import cupy as np"),
    "another optimizer": ("lr: float = 0.1)", "lr: float = 0.2)"),
    "title of the study": ("Mine and SGD", "Mine beside SGD"),
    "an arm of the study": ('Arm(optimizer="sgd")]', 'Arm(optimizer="adam")]'),
    "an import of the study": ("import Arm, CurveFigure", "import Arm, Better, CurveFigure"),
    "main block": ("main(STUDY, plugin=__file__)", "main(STUDY, __file__)"),
    "a subclass that nothing uses": ("def moons()", "class New(Base):\n    x = 1\n\n\ndef moons()"),
}
CHANGED = {
    "the function": ('{"lr": lr}', '{"lr": 2 * lr}'),
    "a default": ("lr: float = 0.01", "lr: float = 0.02"),
    "a new hyperparameter": ("lr: float = 0.01)", "lr: float = 0.01, eps=0.1)"),
    "the class": ("DECAY * group", "DECAY + group"),
    "a decorator of a method": ("    @torch.no_grad()\n", "    @torch.enable_grad()\n"),
    "a method of the base class": ("tensor / norm(tensor)", "tensor * norm(tensor)"),
    "the base class": ("class Mine(Base)", "class Mine(torch.optim.Optimizer)"),
    "a function of a method": ("tensor.norm() +", "tensor.norm(p=1) +"),
    "a constant": ("DECAY = 0.9", "DECAY = 0.8"),
    "the type of a constant": ("DECAY = 0.9", 'DECAY = "0.9"'),
    "a constant with an annotation": ("(1e-8, 0.5)", "(1e-7, 0.5)"),
    "a dictionary": ('{"lr": 1.0}', '{"lr": 2.0}'),
    "an entry that is set later": ("EPOCHS = 20", 'SCALES["lr"] = 3.0'),
    "a constant that is bound again": ("EPOCHS = 20", "DECAY = 0.5"),
    "an augmented assignment": ("EPOCHS = 20", "DECAY *= 0.5"),
    "a constant in a block": ("EPOCHS = 20", "if EPOCHS:\n    DECAY = 0.5"),
    "an attribute that is set later": ("STUDY = ", "Mine.step = Base.scaled\nSTUDY = "),
    "a global setting of torch": ("EPOCHS = 20", "torch.set_default_dtype(torch.float64)"),
    "a setting by a function of the file": ("EPOCHS = 20", "EPOCHS = unrelated(20)"),
    "an import": ("import torch\n", "import mytorch as torch\n"),
    "an import that nothing uses": ("import math\n", "import math\nimport patches\n"),
    "the annotations": ('study."""\n', 'study."""\nfrom __future__ import annotations\n'),
    "a function with the same name": ("STUDY = ", "def norm(x):\n    return 1\n\n\nSTUDY = "),
    "a registering decorator": (
        "@optimizer\ndef other",
        "@torch.library.custom_op('a::b')\ndef other",
    ),
    "a star import": ("import math\n", "from math import *\n"),
}


def digest(folder: Path, text: str, function: str = "mine", name: str = "plugin.py") -> str:
    (folder / name).write_text(text)
    return code_hash_of(read(folder / name), "", function)


def edited(edit: tuple[str, str]) -> str:
    assert FILE.count(edit[0]) >= 1, edit
    return FILE.replace(*edit)


@pytest.mark.parametrize("edit", UNCHANGED)
def test_an_edit_of_code_that_an_optimizer_does_not_use_keeps_its_hash(edit: str, tmp_path: Path):
    assert digest(tmp_path, edited(UNCHANGED[edit])) == digest(tmp_path, FILE)


@pytest.mark.parametrize("edit", CHANGED)
def test_an_edit_that_can_change_the_numbers_of_an_optimizer_changes_its_hash(
    edit: str, tmp_path: Path
):
    assert digest(tmp_path, edited(CHANGED[edit])) != digest(tmp_path, FILE)


WORKLOAD = {
    "data": (("noise=0.2", "noise=0.3"), True),
    "recipe": (("batch_size=50", "batch_size=25"), True),
    "hyperparameters of the recipe": (('{"lr": 1.0}})', '{"lr": 2.0}})'), True),
    "constant of the recipe": (("EPOCHS = 20", "EPOCHS = 30"), True),
    "function of the model": (("math.sqrt(4)", "math.sqrt(9)"), True),
    "import of the data": (("import numpy as np", "import cupy as np"), True),
    "optimizer": (('{"lr": lr}', '{"lr": 2 * lr}'), False),
    "constant of the optimizer": (("DECAY = 0.9", "DECAY = 0.8"), False),
}


@pytest.mark.parametrize("part", WORKLOAD)
def test_the_hash_of_a_workload_covers_its_data_recipe_and_model(part: str, tmp_path: Path):
    edit, changes = WORKLOAD[part]
    assert (digest(tmp_path, edited(edit), "mlp") != digest(tmp_path, FILE, "mlp")) is changes


SIMPLE = """from trainables.plugins import optimizer
import torch
{}
@optimizer
def mine(model, *, lr=0.1):
    return torch.optim.SGD(model.parameters(), lr=lr{})
"""


@pytest.mark.parametrize(
    ("top", "inner"),
    [
        ("", " * globals()['X']"),
        ("", " * eval('2')"),
        ("import sys", " * sys.modules[__name__].X"),
        ("import inspect", ""),
        ("from importlib import import_module", ""),
        ("from math import *", ""),
        ("class A:\n    pass", " * len(A.__subclasses__())"),
        ("def f():\n    import gc\n", ""),
        ("", " * getattr(mine, '__globals__').get('X', 1)"),
    ],
)
def test_a_file_that_reaches_names_as_texts_is_hashed_as_a_whole(
    top: str, inner: str, tmp_path: Path
):
    text = SIMPLE.format(top, inner)
    assert digest(tmp_path, text) != digest(tmp_path, text + "\n# a comment\n")


def test_a_function_that_is_not_at_the_top_level_hashes_the_whole_file(tmp_path: Path):
    text = "def make():\n    def mine(model):\n        pass\n    return mine\n"
    name = "make.<locals>.mine"
    assert digest(tmp_path, text, name) != digest(tmp_path, text + "# comment\n", name)


def write(folder: Path, files: Mapping[str, str]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


FOLDER = {
    "a.py": SIMPLE.format("from .helpers import factor", " * factor()"),
    "b.py": SIMPLE.replace("mine", "other").format("from . import tools", " * tools.X"),
    "helpers.py": "from .parts.base import BASE\n\ndef factor():\n    return BASE\n",
    "parts/__init__.py": "",
    "parts/base.py": "BASE = 2.0\n",
    "tools.py": "X = 1\n",
}


@pytest.mark.parametrize(
    ("file", "old", "new", "changes"),
    [
        ("helpers.py", "return BASE", "return 2 * BASE", True),
        ("parts/base.py", "2.0", "3.0", True),
        ("parts/__init__.py", "", "import torch\n", True),
        ("a.py", "lr=0.1", "lr=0.2", True),
        ("b.py", "import torch\n", "import torch\ntorch.manual_seed(0)\n", True),
        ("tools.py", "X = 1\n", "X = 1\nprint(X)\n", True),
        ("helpers.py", "\n\ndef", "\n\n\n# Return the base.\ndef", False),
        ("b.py", "lr=0.1", "lr=0.2", False),
        ("tools.py", "X = 1", "X = 2", False),
    ],
)
def test_the_hash_of_an_optimizer_in_a_folder_covers_the_modules_that_it_imports(
    file: str, old: str, new: str, changes: bool, tmp_path: Path
):
    folder = write(tmp_path / "folder", FOLDER)
    before = code_hash_of(read(folder), "a", "mine")
    write(folder, {file: FOLDER[file].replace(old, new, 1)})
    assert (code_hash_of(read(folder), "a", "mine") != before) is changes


def test_the_hash_does_not_depend_on_the_place_of_the_file(tmp_path: Path):
    first = digest(tmp_path, FILE, name="first.py")
    assert re.fullmatch("[0-9a-f]{64}", first)
    assert digest(tmp_path, FILE, name="second.py") == first


def test_the_registered_hash_is_that_of_the_function(tmp_path: Path):
    path = tmp_path / "simple.py"
    path.write_text(SIMPLE.format("", ""))
    function = plugins.load(path).functions["mine"]
    assert (function.module, function.name) == ("", "mine")
    assert function.digest == code_hash_of(read(path), "", "mine")
    assert function.digest != read(path).sha256


def test_an_annotation_that_is_a_text_mentions_names(tmp_path: Path):
    top = "from dataclasses import dataclass\nA = {}\n@dataclass\nclass B:\n    x: 'list[A]'\n"
    first, second = (SIMPLE.format(top.format(n), " * B(1).x") for n in (1, 2))
    assert digest(tmp_path, first) != digest(tmp_path, second)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Install a package that a plugin can import; the function sets its version."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "patches_torch.py").write_text("")
    information = site / "patches_torch-1.dist-info"
    information.mkdir()
    (information / "top_level.txt").write_text("patches_torch\n")
    monkeypatch.syspath_prepend(site)

    def install(version: str) -> None:
        text = f"Metadata-Version: 2.1\nName: patches-torch\nVersion: {version}\n"
        (information / "METADATA").write_text(text)
        packages.distributions.cache_clear()

    install("1.0")
    yield install
    packages.distributions.cache_clear()


@pytest.mark.parametrize(
    ("top", "inner", "changes"),
    [
        ("import patches_torch", "", True),  # no name of it is used
        ("if torch:\n    import patches_torch", "", True),
        ("def f():\n    from patches_torch import x\n    return x", " * f()", True),
        ("def f():\n    from patches_torch import x\n    return x", "", False),  # does not run
        ("import patches_torch", " * eval('2')", True),
        ("if __name__ == '__main__':\n    import patches_torch", "", False),
        ("", "", False),
    ],
)
def test_the_hash_covers_the_version_of_an_installed_package(
    top: str, inner: str, changes: bool, tmp_path: Path, package: Callable[[str], None]
):
    text = SIMPLE.format(top, inner)
    first = digest(tmp_path, text)
    package("1.1")
    assert (digest(tmp_path, text) != first) is changes
    package("1.0")
    assert digest(tmp_path, text) == first


def test_the_hash_covers_no_package_of_a_file_that_is_not_imported(
    tmp_path: Path, package: Callable[[str], None]
):
    files = {**FOLDER, "_draft.py": "import patches_torch\n"}
    folder = write(tmp_path / "folder", files)
    first = code_hash_of(read(folder), "a", "mine")
    package("1.1")
    assert code_hash_of(read(folder), "a", "mine") == first
    write(folder, {"helpers.py": FOLDER["helpers.py"] + "\nfrom . import _draft\n"})
    second = code_hash_of(read(folder), "a", "mine")
    package("1.0")
    assert code_hash_of(read(folder), "a", "mine") != second


def test_a_copy_for_another_version_of_a_package_is_refused(
    tmp_path: Path, package: Callable[[str], None]
):
    path = tmp_path / "mine.py"
    path.write_text(SIMPLE.format("import patches_torch", ""))
    plugins.write_copy(path, tmp_path)
    config = resolve("digits/mlp", "mine")
    plugins.unregister()
    package("1.1")
    line = "the trial requires patches-torch 1.0, but 1.1 is installed; install this version, or"
    with pytest.raises(plugins.PluginError, match=line):
        plugins.load_copies(tmp_path, config)
    package("1.0")
    plugins.load_copies(tmp_path, config)
    plugins.unregister()


def test_the_versions_of_packages_that_the_project_requires_are_in_no_hash():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    required = [*project["dependencies"], *extras["studies"], *extras["peers"]]
    renamed = {"scikit_learn": "sklearn", "pyyaml": "yaml"}
    names = [re.split(r"[^\w-]", line)[0].replace("-", "_") for line in required]
    assert {renamed.get(name, name) for name in names} <= packages.REQUIRED
    assert packages.versions(["torch", "sklearn", "numpy", "json", "studies", "no_such"]) == {}
