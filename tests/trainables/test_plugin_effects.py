"""The hash of a plugin's function: which statements at the top level are in every hash."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainables.plugins.content import code_hash_of
from trainables.plugins.sources import Source, Sources

FILE = """import dataclasses, enum, functools, math, operator
import torch
from torch import nn
from studies import Arm, CurveFigure, Study, grid
from trainables.plugins import optimizer, workload
USED = [dataclasses, enum, functools, math, operator, nn, workload, Arm, CurveFigure, Study, grid]
def effect(*values):
    return 1
class Plain:
    pass
@dataclasses.dataclass
class Base:
    lr: float = 0.1
    def __post_init__(self):
        effect(self.lr)
class User:
    __rshift__ = effect
    def __iter__(self):
        yield effect()
    @property
    def on(self):
        return effect()
user = User()
NUMBER = 2
TABLE = []
{}
@optimizer
def mine(model, *, lr=0.1):
    return torch.optim.SGD(model.parameters(), lr=lr)
"""
REGISTRY = "def register(cls, *args):\n    TABLE.append(cls)\n"

# The first text is in both versions of the file, the second in one.
EFFECTS = {
    "a subclass": (
        "class B:\n    def __init_subclass__(cls):\n        TABLE.append(cls)\n",
        "class C(B):\n    pass\n",
    ),
    "a hook that is assigned in the class": (
        REGISTRY + "class B:\n    __init_subclass__ = classmethod(register)\n",
        "class C(B):\n    pass\n",
    ),
    "a hook that is assigned to the class": (
        REGISTRY + "class B:\n    pass\nB.__init_subclass__ = classmethod(register)\n",
        "class C(B):\n    pass\n",
    ),
    "a hook that is set by its name": (
        REGISTRY + "class B:\n    pass\nsetattr(B, '__init_subclass__', classmethod(register))\n",
        "class C(B):\n    pass\n",
    ),
    "a metaclass": (
        "class M(type):\n    pass\nclass B(metaclass=M):\n    pass\n",
        "class C(B):\n    pass\n",
    ),
    "a metaclass that is called": (
        "class M(type):\n    pass\nB = M('B', (), {})\n",
        "class C(B):\n    pass\n",
    ),
    "a name of torch that is assigned": (
        "class M(type):\n    pass\nnn.Module = M('B', (), {})\n",
        "class C(nn.Module):\n    pass\n",
    ),
    "a decorator of torch that is assigned": (
        "torch.no_grad = effect\n",
        "@torch.no_grad\ndef g():\n    pass\n",
    ),
    "a descriptor": (
        "class D:\n    __set_name__ = lambda self, *names: effect()\nd = D()\n",
        "class C:\n    x = d\n",
    ),
    "a base of a library": ("from library import B\n", "class C(B):\n    pass\n"),
    "a base of a module of the plugin": ("from .helpers import B\n", "class C(B):\n    pass\n"),
    "a base that a function replaces": (
        "def f():\n    global Plain\n    Plain = 1\n",
        "class C(Plain):\n    pass\n",
    ),
    "an enumeration": (
        "",
        "class C(enum.Enum):\n    A = 1\n    def __init__(self, x):\n        1\n",
    ),
    "a decorator of the file": ("def mark(f):\n    return f\n", "@mark\ndef g():\n    pass\n"),
    "a decorator that the class binds": (
        "",
        "class C:\n    property = effect\n    @property\n    def x(self):\n        pass\n",
    ),
    "an accessor of an instance": ("", "class C:\n    @user.setter\n    def x(self):\n        1\n"),
    "a default": ("", "def g(x=effect()):\n    pass\n"),
    "an annotation": ("", "def g(x: effect()):\n    pass\n"),
    "an item in an annotation": ("", "def g(x: user[1]):\n    pass\n"),
    "a comprehension": ("", "X = [effect() for _ in range(2)]\n"),
    "an attribute of a class": ("", "class C:\n    x = effect()\n"),
    "a loop": ("", "for _ in range(2):\n    effect()\n"),
    "a context": ("", "with effect():\n    pass\n"),
    "a deletion": ("A = 1\n", "del A\n"),
    "an item as a target": ("A = B = [1]\n", "A, B[0] = 1, 2\n"),
    "an assertion": ("A = 1\n", "assert A == 1\n"),
    "an item of a defaultdict": (
        "import collections\nD = collections.defaultdict(effect)\n",
        "X = D['a']\n",
    ),
    "a changed copy of a dataclass": ("BASE = Base()\n", "X = dataclasses.replace(BASE, lr=0.9)\n"),
    "an iterator": ("it = iter([1, 2, 3])\n", "X = [y for y in it]\n"),
    "an operator of an instance": ("", "X = user >> 3\n"),
    "an operator of a subclass of dict": ("class D(dict):\n    pass\nd = D()\n", "X = d | {}\n"),
    "an operator as a function": ("", "X = operator.iadd(TABLE, [1])\n"),
    "an item of a class": (
        "class N:\n    def __class_getitem__(cls, item):\n        return effect()\n",
        "X = N[3]\n",
    ),
    "an attribute of an instance": ("", "X = user.on\n"),
    "a formatted instance": ("", "X = f'{user}'\n"),
    "a list of an instance": ("", "X = list(user)\n"),
    "an unpacked instance": ("", "X = [*user]\n"),
    "an instance that is assigned to names": ("", "X, Y = user\n"),
    "an instance as a key": ("", "X = {user: 1}\n"),
    "a tensor of a list that may contain instances": ("", "X = torch.tensor(TABLE)\n"),
}
DEFINITIONS = {
    "a comment": "# A comment.\n",
    "a constant": "X = 3\n",
    "arithmetic of constants": "X = -2 * math.pi / NUMBER\n",
    "several names": "X, Y = 1, 'y'\n",
    "a dictionary": "X = {'lr': [1e-3, NUMBER], 'f': effect, 'type': torch.float32}\n",
    "a tensor": "X = torch.tensor([1.0, 2.0], dtype=torch.float32)\n",
    "a partial function": "X = functools.partial(effect, 2)\n",
    "a lambda": "X = {'a': lambda x: x + 1}\n",
    "a function": "def g(x: int | None = 2, *, y: list[str] = ()) -> torch.Tensor:\n    pass\n",
    "a decorated function": "@functools.lru_cache(maxsize=NUMBER)\ndef g():\n    pass\n",
    "a function without gradients": "@torch.no_grad()\ndef g():\n    pass\n",
    "a module": "class C(nn.Module):\n    def forward(self, x):\n        return x\n",
    "a subclass": "class C(Plain):\n    scale: float = 1.0\n",
    "a property": (
        "class C:\n    @property\n    def x(self):\n        1\n"
        "    @x.setter\n    def x(self, v):\n        2\n"
    ),
    "a dataclass": (
        "@dataclasses.dataclass(frozen=True)\nclass C:\n    a: int = 3\n"
        "    b: list = dataclasses.field(default_factory=list)\n"
    ),
    "a workload": "@workload('a/b', data=effect, epochs=NUMBER)\ndef net():\n    return nn.ReLU()\n",
    "a study": (
        "X = Study(name='a', title='b', claims=[], figure=CurveFigure(references=('sgd',)),\n"
        "    arms=[Arm(optimizer='mine'), *grid('sgd', lr=[0.1, 0.2])])\n"
    ),
    "the main block": "if __name__ == '__main__':\n    print(3)\n",
}


def digest(text: str) -> str:
    source = Source(Path("plugin.py"), FILE.replace("{}", text, 1).encode())
    helpers = Source(Path("helpers.py"), b"class B:\n    pass\n")
    return code_hash_of(Sources(Path(), {"plugin": source, "helpers": helpers}), "plugin", "mine")


@pytest.mark.parametrize("effect", EFFECTS)
def test_code_that_runs_at_the_import_is_part_of_each_hash(effect: str):
    before, after = EFFECTS[effect]
    # Imports and names that nothing else mentions must not make the difference.
    both = f"{before}def unrelated():\n    return D, B, N, it, BASE, collections\n"
    assert digest(both) != digest(both + after)


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_a_definition_that_a_function_does_not_use_keeps_its_hash(definition: str):
    assert digest(DEFINITIONS[definition]) == digest("")
