"""Plugins: parameters of registered functions, several files, folders, and copies for workers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import precond
from trainables import plugins
from trainables.plugins import PluginError
from trainables.store import StoreError, TrialStore
from trainables.train import epochs
from trainables.workloads import resolve

HEAD = "import torch\nfrom trainables.plugins import optimizer, workload\n\n"
BODY = ":\n    return torch.optim.SGD(model.parameters(), lr=0.1)\n"


@pytest.fixture(autouse=True)
def _no_plugins():
    yield
    plugins.unregister()


def write(path: Path, code: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HEAD + code)
    return path


def named(path: Path, name: str, lr: str = "0.1") -> Path:
    """Write a plugin with an optimizer."""
    return write(path, f"@optimizer\ndef {name}(model, *, lr={lr}){BODY}")


SIGNATURES = {
    "model, lr=0.1": (
        "the parameter `lr=0.1` is not keyword-only, and only those are hyperparameters",
        "write `def f(model, *, lr=0.1)`",
    ),
    "model, lr=0.1, *, eps=1e-8": ("`lr=0.1`", "write `def f(model, *, lr=0.1, eps=1e-08)`"),
    "model, lr": ("the parameter `lr`", "write `def f(model, *, lr=0.1)`"),
    "net, lr=0.1": ("`lr=0.1`", "write `def f(net, *, lr=0.1)`"),
    "model, *args": ("the parameter `*args`", "write `def f(model, *, lr=0.1)`"),
    "model, *, lr=0.1, **kwargs": ("`**kwargs`", "write `def f(model, *, lr=0.1)`"),
    "*, lr=0.1": ("the first parameter must be the model", "write `def f(model, *, lr=0.1)`"),
    "lr=0.1": (
        "the first parameter is the model and has no default, but it is `lr=0.1`",
        "write `def f(model, *, lr=0.1)`",
    ),
    "": ("the first parameter must be the model", "write `def f(model, *, lr=0.1)`"),
    "*args, lr=0.1": ("the first parameter must be the model", "write `def f(model, *, lr=0.1)`"),
    "model, *, lr": ("lr has no default",),
    "model, *, lr=[0.1]": ("the default of lr is [0.1]: must be a finite number, a text, a bool",),
    "model, *, lr=torch.tensor(0.1)": ("the default of lr is tensor(0.1000): must be a finite",),
    "model, *, lr=float('inf')": ("the default of lr is inf: must be a finite number",),
    "model, *, lr=((1, 2), 3)": ("the default of lr is ((1, 2), 3): must be",),
    "model, *, clip=None": (
        "the default of clip is None, so its annotation must contain the type of its values",
        "write `clip: float | None = None`",
    ),
    "model, *, clip: list | None = None": ("write `clip: float | None = None`",),
    "model, *, clip: 'Late | None' = None": (
        "but `clip: 'Late | None' = None` contains none that is known here",
    ),
    "model, c: int | None = None": ("write `def f(model, *, c: int | None = None)`",),
    "model, clip=None": ("write `def f(model, *, clip: float | None = None)`",),
    "model, *, params=()": ("params receives the parameter groups, so its default must be None",),
}


@pytest.mark.parametrize("parameters", SIGNATURES)
def test_a_parameter_that_cannot_be_a_hyperparameter_is_refused(parameters: str, tmp_path: Path):
    path = write(tmp_path / "f.py", f"@optimizer\ndef f({parameters}){BODY}")
    with pytest.raises(PluginError) as error:
        plugins.load(path)
    line = str(error.value)
    assert line.startswith(f"{path}, line 4: f: ") and "\n" not in line
    assert all(part in line for part in SIGNATURES[parameters])
    assert "f" not in precond.available()


def test_plain_values_and_tuples_are_defaults_of_hyperparameters(tmp_path: Path):
    parameters = "model, /, *, a=1, b=0.5, c='x', d=True, e: bool | None = None, f=(0.9, 0.99), g=('x', 1), h=()"
    plugins.load(write(tmp_path / "f.py", f"@optimizer\ndef f({parameters}){BODY}"))
    assert list(precond.defaults("f")) == list("abcdefgh")
    assert precond.check("f", {"f": (0.5, 0.6), "g": ["y", 2]}) == []
    assert precond.check("f", {"f": 0.5, "g": (1, "y")}) == [
        "f = 0.5: must be 2 numbers",
        "g = (1, 'y'): must be 2 values of the types in the default ('x', 1)",
    ]


@pytest.mark.parametrize("quote", ["", '"'])
def test_the_annotation_of_a_parameter_with_the_default_none_is_its_type(
    quote: str, tmp_path: Path
):
    declared = {"a": "float | None", "b": "Optional[int]", "c": "int | str | None"}
    declarations = [f"{name}: {quote}{kind}{quote} = None" for name, kind in declared.items()]
    declarations.append(f"d: {quote}float | None{quote} = 0.5")
    code = (
        f"from typing import Optional\n\n\n@optimizer\ndef f(model, *, {', '.join(declarations)})"
    )
    plugins.load(write(tmp_path / "f.py", code + BODY))
    assert precond.defaults("f") == {"a": None, "b": None, "c": None, "d": 0.5}
    assert precond.check("f", {"a": 0.5, "b": 2, "c": "x", "d": None}) == []
    assert precond.check("f", {"a": None, "b": None, "c": 1, "d": 1}) == []
    assert precond.check("f", {"a": "x", "b": 0.5, "c": 0.5, "d": "x"}) == [
        "a = 'x': must be a finite number, or None",
        "b = 0.5: must be an integer, or None",
        "c = 0.5: must be an integer, a text, or None",
        "d = 'x': must be a finite number, or None",
    ]


ALLOWED = {
    "a: float | None = 1": ([1.5, None], ["x"], "a finite number, or None"),
    "a: float = 1": ([1.5], [None, "x"], "a finite number"),
    "a: int = 0.5": ([1.5], ["x"], "a finite number"),
    "a: float | int | None = None": ([1.5, 2, None], [True], "a finite number, or None"),
    "a: int | bool | None = None": ([1, False, None], [0.5], "an integer, true, false, or None"),
    "a: int | bool = 1": ([1, False], [None], "an integer, true, or false"),
    "a: bool | None = True": ([False, None], [1], "true, false, or None"),
    "a: bool = True": ([False], [1], "true or false"),
    "a: int | str = 1": ([2, "x"], [0.5], "an integer or a text"),
    "a: Annotated[float, {'min': 0}] = 0.1": ([1], ["x"], "a finite number"),
    "a: Annotated[Optional[float], {'min': 0}] = None": ([1, None], ["x"], "a finite number, or"),
    "a: tuple = ()": ([()], [(1,), 1], "an empty tuple"),
    "a: 'Missing' = 0.1": ([1], ["x"], "a finite number"),
    "a: 'float | Missing | None' = None": ([1.5, None], ["x"], "a finite number, or None"),
    "a: 'Union[Missing, Optional[float]]' = 1.0": ([1.5, None], ["x"], "a finite number, or None"),
    "a: 'Optional[Annotated[int, missing]]' = None": ([1], [1.5], "an integer, or None"),
    "a: Union['Missing', float, None] = 1.0": ([1.5, None], ["x"], "a finite number, or None"),
}


@pytest.mark.parametrize("future", ["", "from __future__ import annotations\n"])
@pytest.mark.parametrize("declaration", ALLOWED)
def test_the_annotation_decides_which_values_are_allowed(
    declaration: str, future: str, tmp_path: Path
):
    valid, invalid, allowed = ALLOWED[declaration]
    head = f"{future}from typing import Annotated, Optional, Union\n{HEAD}"
    (tmp_path / "f.py").write_text(f"{head}@optimizer\ndef f(model, *, {declaration}){BODY}")
    plugins.load(tmp_path / "f.py")
    assert [precond.check("f", {"a": value}) for value in valid] == [[]] * len(valid)
    for value in invalid:
        (line,) = precond.check("f", {"a": value})
        assert line.startswith(f"a = {value!r}: must be {allowed}")


@pytest.mark.parametrize(
    "definition",
    [
        "@optimizer\n@torch.no_grad()\ndef f(model, *, clip: Clip = None):\n    pass\n",
        "@optimizer\nclass f(torch.optim.SGD):\n"
        "    def __init__(self, model, *, clip: Clip = None):\n        pass\n",
    ],
)
def test_annotations_are_evaluated_in_the_file_that_contains_them(definition: str, tmp_path: Path):
    head = "from __future__ import annotations\nfrom typing import Optional\n"
    (tmp_path / "f.py").write_text(f"{head}{HEAD}Clip = Optional[float]\n{definition}")
    plugins.load(tmp_path / "f.py")
    assert precond.check("f", {"clip": 0.5}) == []
    assert precond.check("f", {"clip": "x"}) == ["clip = 'x': must be a finite number, or None"]


@pytest.mark.parametrize(
    ("declaration", "values", "normal"),
    [
        ("clip: float | None = None", (1, 1.0), 1.0),
        ("clip: float | None = 0.5", (1, 1.0), 1.0),
        ("clip: float = 2", (1, 1.0), 1),  # as the default
        ("clip: float = 2", (1.5,), 1.5),
        ("clip: int | None = None", (1,), 1),
    ],
)
def test_equal_numbers_are_one_trial(declaration: str, values, normal, tmp_path: Path):
    plugins.load(write(tmp_path / "f.py", f"@optimizer\ndef f(model, *, {declaration}){BODY}"))
    configs = [resolve("digits/cnn", "f", {"clip": value}) for value in values]
    assert len({config.trial_key for config in configs}) == 1
    assert [repr(config.hyperparameters["clip"]) for config in configs] == [repr(normal)] * len(
        configs
    )


@pytest.mark.parametrize("declaration", ["c: int | float | None = None", "c: int | float = 2"])
def test_integers_and_floats_are_different_values_if_both_types_are_named(
    declaration: str, tmp_path: Path
):
    plugins.load(write(tmp_path / "f.py", f"@optimizer\ndef f(model, *, {declaration}){BODY}"))
    configs = [resolve("digits/cnn", "f", {"c": value}) for value in (1, 1.0)]
    assert configs[0].trial_key != configs[1].trial_key


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("def net(width=3)", "net has the parameter `width=3`: its parameters are not hyper"),
        ("def net(*args)", "net has the parameter `*args`"),
        ("class net:\n    def __init__(self, n)", "net has the parameter `n`"),
    ],
)
def test_a_workload_whose_model_has_parameters_is_refused(code: str, line: str, tmp_path: Path):
    head = "@workload('a/b', data=tuple, batch_size=1, epochs=1)\n"
    with pytest.raises(PluginError, match="write `def net") as error:
        plugins.load(write(tmp_path / "f.py", head + code + ":\n        pass\n"))
    assert line in str(error.value) and "\n" not in str(error.value)


def test_data_that_require_an_argument_are_refused(tmp_path: Path):
    code = (
        "def data(n):\n    pass\n\n"
        "@workload('a/b', data=data, batch_size=1, epochs=1)\ndef net():\n    pass\n"
    )
    with pytest.raises(PluginError, match="data = data has the parameter `n` without a default"):
        plugins.load(write(tmp_path / "f.py", code))


def test_a_plugin_receives_tuples_for_its_tuples(tmp_path: Path):
    """A configuration contains lists, as JSON does, and the function receives its default's type."""
    body = (
        "@optimizer\ndef f(model, *, betas=(0.9, 0.99), names=('x', True)):\n"
        "    assert type(betas) is tuple and type(names) is tuple, (betas, names)\n"
        "    return torch.optim.Adam(model.parameters(), betas=betas)\n"
    )
    plugins.load(write(tmp_path / "f.py", body))
    config = resolve("digits/cnn", "f", {"betas": (0, 0.5)})
    assert config.hyperparameters == {"betas": [0.0, 0.5], "names": ["x", True]}
    assert resolve("digits/cnn", "f", {"betas": [0.0, 0.5]}).trial_key == config.trial_key


# ---------------------------------------------------------------------- several plugins, folders


def test_several_plugins_are_loaded_together(tmp_path: Path):
    paths = [named(tmp_path / f"{name}.py", name) for name in ("one", "two")]
    assert plugins.load_all(paths) == []
    assert {"one", "two"} <= set(precond.available())


def test_two_plugins_with_the_same_name_are_an_error_of_one_line(tmp_path: Path):
    first, second = named(tmp_path / "a.py", "same"), named(tmp_path / "b.py", "same", lr="0.2")
    line = f'{second}: "same" is registered by {first}, too; rename one of them'
    assert plugins.load_all([first, second]) == [line]
    assert plugins.load_all([first, second]) == [line]  # also if they are loaded already
    assert plugins.load_all([first, first]) == []
    copy = tmp_path / "copy.py"
    copy.write_bytes(first.read_bytes())
    assert len(plugins.load_all([first, copy])) == 1


def test_a_name_twice_in_one_plugin_is_refused(tmp_path: Path):
    code = f"@optimizer\ndef f(model){BODY}" * 2
    with pytest.raises(PluginError, match='"f" exists already'):
        plugins.load(write(tmp_path / "f.py", code))


def test_a_plugin_of_a_name_that_another_version_replaced_is_loaded_again(tmp_path: Path):
    """In a worker that alternates between trials of two versions, each trial gets its own code."""
    older = write(
        tmp_path / "one.py", f"@optimizer\ndef f(model){BODY}\n@optimizer\ndef g(model){BODY}"
    )
    newer = named(tmp_path / "two.py", "f", lr="0.3")
    for path, defaults in [(older, {}), (newer, {"lr": 0.3}), (older, {}), (newer, {"lr": 0.3})]:
        plugins.load(path)
        assert precond.defaults("f") == defaults


def folder(root: Path) -> Path:
    root.mkdir()
    (root / "_private.py").write_text("raise RuntimeError('private files are not imported')\n")
    (root / "notes.txt").write_text("not Python\n")
    (root / "helpers.py").write_text("def rate():\n    return 0.25\n")
    late = "def late():\n    from .helpers import rate\n    return rate()\n\n"
    write(
        root / "b.py",
        late
        + f"from .parts.base import LR\n@optimizer\ndef second(model, *, lr=LR + late()){BODY}",
    )
    (root / "parts").mkdir()
    (root / "parts" / "__init__.py").write_text("")
    (root / "parts" / "base.py").write_text("from ..helpers import rate\nLR = rate()\n")
    named(root / "a.py", "first")
    return root


def test_a_folder_is_a_plugin_whose_files_import_each_other(tmp_path: Path):
    plugin = plugins.load(folder(tmp_path / "mine"))
    assert list(plugin.functions) == ["first", "second"]
    assert precond.defaults("second") == {"lr": 0.5}
    assert not [path for path in (tmp_path / "mine").rglob("*") if path.name == "__pycache__"]


def test_workers_import_a_copy_of_the_folder(tmp_path: Path):
    source, out = folder(tmp_path / "mine"), tmp_path / "out"
    plugins.load(source)
    config = resolve("digits/cnn", "second")
    plugins.write_copy(source, out)
    plugins.write_copy(source, out)
    plugins.unregister()
    (source / "helpers.py").write_text("def rate():\n    return 0.75\n")
    assert not plugins.has_code(config)
    plugins.load_copies(out, config)
    assert plugins.has_code(config)
    assert precond.defaults("second") == {"lr": 0.5}


@pytest.mark.parametrize(
    ("code", "line"),
    [
        (
            "import helpers\n",
            "ModuleNotFoundError: No module named 'helpers'; helpers.py lies in the folder of the",
        ),
        ("from helpers import x\n", "write `from .helpers import ...`"),
        ("from .missing import x\n", "ModuleNotFoundError"),
        ("def f(:\n", "SyntaxError: "),
    ],
)
def test_an_error_in_a_file_of_a_folder_names_the_file_and_the_line(
    code: str, line: str, tmp_path: Path
):
    root = tmp_path / "mine"
    write(root / "bad.py", code)
    (root / "helpers.py").write_text("x = 1\n")
    with pytest.raises(PluginError) as error:
        plugins.load(root)
    assert str(error.value).startswith(f"{root / 'bad.py'}, line 4: ")
    assert line in str(error.value) and "\n" not in str(error.value)
    assert not [name for name in sys.modules if name.startswith("plugin_")]
    assert plugins.load(named(tmp_path / "good.py", "good")).functions


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("missing.py", "No such file or directory"),
        ("empty", "contains no .py file"),
        ("text.txt", "the name of the file must end in .py"),
        ("silent.py", "registers nothing"),
    ],
)
def test_a_path_that_is_no_plugin_is_refused(name: str, line: str, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("")
    (tmp_path / "silent.py").write_text("")
    assert [line in error for error in plugins.load_all([tmp_path / name])] == [True]


@pytest.mark.parametrize("call", ["raise SystemExit(3)", "import sys\nsys.exit('bye')"])
def test_a_plugin_that_ends_the_program_is_refused(call: str, tmp_path: Path):
    with pytest.raises(PluginError, match="SystemExit"):
        plugins.load(write(tmp_path / "f.py", call + "\n"))


def test_dataclasses_with_postponed_annotations_work_in_a_plugin(tmp_path: Path):
    code = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass Options:\n    lr: float = 0.5\n\n"
    )
    path = tmp_path / "f.py"
    path.write_text(code + HEAD + f"@optimizer\ndef f(model, *, lr=Options().lr){BODY}")
    plugins.load(path)
    assert precond.defaults("f") == {"lr": 0.5}


# ---------------------------------------------------------------------- copies


def copies(out: Path) -> list[Path]:
    return [*(out / "plugins").glob("*.py")]


def test_two_versions_with_the_same_code_for_a_trial_are_two_copies(tmp_path: Path):
    """The trial has one hash, which the version of the last command answers."""
    path, out = named(tmp_path / "f.py", "f"), tmp_path / "out"
    plugins.load(path)
    first = resolve("digits/cnn", "f")
    plugins.write_copy(path, out)
    named(path, "f")
    path.write_text(path.read_text() + f"\n@optimizer\ndef g(model){BODY}# a comment\n")
    plugins.load(path)
    assert resolve("digits/cnn", "f").trial_key == first.trial_key
    plugins.write_copy(path, out)
    assert len(copies(out)) == 2
    plugins.unregister()
    plugins.load_copies(out, first)
    assert plugins.has_code(first) and "g" in precond.available()


def test_a_workload_and_an_optimizer_of_two_plugins_are_both_in_the_key(tmp_path: Path):
    data = (
        "def data():\n    x, y = torch.zeros(4, 2), torch.tensor([0, 1, 0, 1])\n"
        "    return x, y, x, y\n\n@workload('toy/net', data=data, batch_size=2, epochs=1)\n"
        "def net():\n    return torch.nn.Linear(2, 2)\n"
    )
    first, second = named(tmp_path / "one.py", "f"), write(tmp_path / "two.py", data)
    out = tmp_path / "out"
    assert plugins.load_all([first, second]) == []
    config = resolve("toy/net", "f")
    hashes = [plugins.load(p).functions[n].digest for p, n in ((second, "toy/net"), (first, "f"))]
    assert config.plugin == "+".join(hashes)
    for path in (first, second):
        plugins.write_copy(path, out)
    plugins.unregister()
    plugins.load_copies(out, config)
    assert plugins.has_code(config)


@pytest.mark.parametrize("damage", ["copy", "index", "link"])
def test_a_missing_or_damaged_copy_is_an_error_with_advice(damage: str, tmp_path: Path):
    path, out = named(tmp_path / "f.py", "f"), tmp_path / "out"
    plugins.load(path)
    config = resolve("digits/cnn", "f")
    plugins.write_copy(path, out)
    plugins.unregister()
    index = out / "plugins" / f"{config.plugin}.json"
    if damage == "copy":
        copies(out)[0].write_text("")
    elif damage == "index":
        index.unlink()
    else:
        index.write_text('{"copy": "../../f.py", "module": "", "function": "f"}')
    with pytest.raises(PluginError, match="run the study's command again"):
        plugins.load_copies(out, config)


def test_an_edit_within_a_second_is_not_hidden_by_a_compiled_file(tmp_path: Path):
    for lr in ("0.1", "0.2", "0.3"):
        plugins.load(named(tmp_path / "f.py", "f", lr))
        assert precond.defaults("f") == {"lr": float(lr)}
    optimizer = precond.build("f", torch.nn.Linear(2, 2))
    assert isinstance(optimizer, torch.optim.SGD)


def test_a_trial_whose_plugin_is_missing_ends_without_a_status(tmp_path: Path):
    """The worker reports the problem to the driver, which stops; the trial is not `failed`."""
    plugins.load(named(tmp_path / "f.py", "f"))
    store = TrialStore(tmp_path / "out", resolve("digits/mlp", "f"))
    store.create()
    plugins.unregister()
    with pytest.raises(StoreError, match="run the study's command again, with its --plugin flags"):
        list(epochs(store.config, store))
    assert store.status() is None
