"""Tests whether a statement at the top level of a file only defines names.

Every other statement may have an effect on the rest of the file or on torch, so that it is part of
the hash of every function of the plugin. A statement that is wrongly taken for one with an effect
only lets more edits change the hash; the reverse would let an edit go unnoticed. Only imports,
functions, classes and plain values therefore count as definitions, and an operator, an attribute or
a call is plain only if it cannot run code of the plugin.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterable

from trainables.plugins.bindings import DEFINITIONS, bound, imported

# The calls that only return a value. Classes of `studies` build a study.
CALLS = {"functools.partial", "dataclasses.field", "torch.tensor", "studies.grid"}
DECORATORS = {
    *("property", "staticmethod", "classmethod"),
    *("contextlib.contextmanager", "abc.abstractmethod"),
    *("functools.cache", "functools.lru_cache", "functools.cached_property", "functools.wraps"),
    *("typing.overload", "typing.override", "typing.final", "typing.no_type_check"),
    *("torch.no_grad", "torch.enable_grad", "torch.inference_mode", "torch.compile"),
    *("trainables.plugins.optimizer", "trainables.plugins.workload"),
}
CLASS_DECORATORS = {
    *("dataclasses.dataclass", "typing.final"),
    *("trainables.plugins.optimizer", "trainables.plugins.workload"),
}
ACCESSORS = {"setter", "getter", "deleter"}
# The bases, besides those from torch, that run no code if they are subclassed.
BASES = {
    "object",
    "Exception",
    "ValueError",
    "RuntimeError",
    "typing.NamedTuple",
    "typing.Protocol",
}
TYPES = {
    *("bool", "int", "float", "complex", "str", "bytes", "tuple", "list", "dict", "set"),
    *("frozenset", "type", "object"),
}
GENERIC_MODULES = ("typing.", "collections.abc.")
# Reading an attribute of these packages, such as `torch.float32`, runs no code of the plugin.
PACKAGES = {
    *("math", "typing", "collections", "functools", "dataclasses", "contextlib", "abc", "pathlib"),
    *("torch", "torchvision", "numpy", "scipy", "sklearn", "precond", "studies", "trainables"),
}
# Python or `dataclass` calls these while it defines a class.
CLASS_HOOKS = {"__init_subclass__", "__set_name__", "__class_getitem__", "__signature__"}


class Definitions:
    """Decides which statements of a module only define names.

    Args:
        statements: The statements at the top level.
        mentioned: All names that the module mentions. An import of another name may be for its
            effects.
        reassigned: Names that any module of the plugin may bind again, see `bindings.reassigned`.
        class_hooks: True if a module of the plugin mentions one of `CLASS_HOOKS`. A definition of
            a class may then run code.
    """

    def __init__(
        self,
        statements: Iterable[ast.stmt],
        mentioned: Iterable[str],
        reassigned: Iterable[str],
        class_hooks: bool,
    ):
        self._mentioned = set(mentioned)
        self._reassigned = set(reassigned)
        self._class_hooks = class_hooks
        statements = list(statements)
        self._bound = Counter(name for statement in statements for name in bound(statement))
        imports = Counter(pair for statement in statements for pair in imported(statement))
        for (
            name,
            _,
        ), count in imports.items():  # `import torch` and `import torch.nn` are the same
            self._bound[name] -= count - 1
        self._imports: dict[str, str] = {}
        self._constants: set[str] = set()
        self._classes: set[str] = set()
        self._values: set[str] = set()  # functions and other plain values
        self._lazy_annotations = False
        self._in_class: set[str] = set()  # names that the body of the current class binds
        self.effects: list[int] = []  # the numbers of the other statements
        for number, statement in enumerate(statements):
            if not self._only_defines(statement):
                self.effects.append(number)
            self._record(statement, number not in self.effects)

    def _record(self, node: ast.stmt, defines: bool) -> None:
        """Store what is known about the names that a statement binds."""
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            self._lazy_annotations |= any(alias.name == "annotations" for alias in node.names)
        self._imports |= {n: p for n, p in imported(node) if self._is_bound_once(n)}
        names = {name for name in bound(node) if self._is_bound_once(name)} if defines else set()
        if isinstance(node, ast.ClassDef):
            self._classes |= names
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            constant = node.value is not None and self._is_constant(node.value)
            (self._constants if constant else self._values).update(names)
        elif isinstance(node, DEFINITIONS):
            self._values |= names

    def _is_bound_once(self, name: str) -> bool:
        return self._bound[name] == 1 and name not in self._reassigned

    def _only_defines(self, node: ast.stmt) -> bool:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            future = isinstance(node, ast.ImportFrom) and node.module == "__future__"
            used = {n for n, path in imported(node) if path.startswith("studies.")}  # by a study
            return not future and set(bound(node)) <= self._mentioned | used
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return self._is_plain_function(node)
        if isinstance(node, ast.ClassDef):
            return self._is_plain_class(node)
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            return self._is_plain_assignment(node)
        return isinstance(node, ast.Pass) or type(node).__name__ == "TypeAlias"

    def _is_plain_function(
        self, node: ast.FunctionDef | ast.AsyncFunctionDef, methods: Iterable[str] = ()
    ) -> bool:
        arguments = node.args
        parameters = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        parameters += [a for a in (arguments.vararg, arguments.kwarg) if a]
        decorators = [d for d in node.decorator_list if not _is_accessor(d, methods)]
        return (
            all(self._is_known_decorator(d, DECORATORS) for d in decorators)
            and self._has_plain_defaults(arguments)
            and all(map(self._is_annotation, [node.returns, *(a.annotation for a in parameters)]))
        )

    def _is_plain_class(self, node: ast.ClassDef) -> bool:
        if self._class_hooks or node.keywords or not all(map(self._is_known_base, node.bases)):
            return False
        if not all(self._is_known_decorator(d, CLASS_DECORATORS) for d in node.decorator_list):
            return False
        self._in_class = {name for part in node.body for name in bound(part)}
        methods: set[str] = set()
        try:
            for part in node.body:
                if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    plain = self._is_plain_function(part, methods)
                    methods.add(part.name)
                elif isinstance(part, (ast.Assign, ast.AnnAssign)):
                    special = {n for n in bound(part) if n.startswith("__")} - {"__slots__"}
                    plain = not special and self._is_plain_assignment(part)
                else:
                    plain = isinstance(part, ast.Pass)
                if not plain:
                    return False
            return True
        finally:
            self._in_class = set()

    def _is_plain_assignment(self, node: ast.Assign | ast.AnnAssign) -> bool:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for target in targets:
            several = isinstance(target, (ast.Tuple, ast.List))
            if several and not isinstance(node.value, (ast.Tuple, ast.List)):
                return False  # unpacking calls a method of the value
            if not all(isinstance(t, ast.Name) for t in (target.elts if several else [target])):
                return False
        if isinstance(node, ast.AnnAssign) and not self._is_annotation(node.annotation):
            return False
        return node.value is None or self._is_plain(node.value)

    def _is_constant(self, node: ast.expr) -> bool:
        """Return True for numbers, texts, arithmetic with them, and tuples of them."""
        if isinstance(node, ast.Name):
            return node.id in self._constants - self._in_class
        if isinstance(node, ast.Attribute):
            return self._path_of(node).startswith("math.")
        if isinstance(node, ast.UnaryOp):
            return self._is_constant(node.operand)
        if isinstance(node, ast.BinOp):
            return self._is_constant(node.left) and self._is_constant(node.right)
        if isinstance(node, ast.Tuple):
            return all(map(self._is_constant, node.elts))
        return isinstance(node, ast.Constant)

    def _is_plain(self, node: ast.expr) -> bool:
        """Return True if the evaluation of an expression runs no code of the plugin."""
        if isinstance(node, ast.Lambda):  # its body does not run
            return self._has_plain_defaults(node.args)
        if isinstance(node, (ast.Name, ast.Attribute)):
            return self._is_plain_name(node)
        if isinstance(node, (ast.Tuple, ast.List)):
            return all(map(self._is_plain, node.elts))
        if isinstance(node, ast.Starred):
            return isinstance(node.value, ast.Call) and self._is_plain(node.value)
        if isinstance(node, ast.Set):  # hashes its items
            return all(map(self._is_constant, node.elts))
        if isinstance(node, ast.Dict):
            keys = all(key is not None and self._is_constant(key) for key in node.keys)
            return keys and all(map(self._is_plain, node.values))
        if isinstance(node, ast.Call):
            path = self._path_of(node.func)
            studies = path.startswith("studies.") and path.rpartition(".")[2][:1].isupper()
            return (studies or path in CALLS) and self._has_plain_arguments(node, path)
        return self._is_constant(node)

    def _is_plain_name(self, node: ast.Name | ast.Attribute) -> bool:
        if isinstance(node, ast.Name) and node.id not in self._in_class:
            if node.id in self._constants | self._classes:
                return True
            if node.id in self._values:  # a list may contain any object by now
                return not self._in_class
        path = self._path_of(node)
        return path in TYPES or path.partition(".")[0] in PACKAGES

    def _has_plain_arguments(self, node: ast.Call, path: str = "") -> bool:
        if any(keyword.arg is None for keyword in node.keywords):
            return False  # unpacks a mapping
        values = [*node.args, *(keyword.value for keyword in node.keywords)]
        if path == "torch.tensor" and self._values & {
            part.id for value in values for part in ast.walk(value) if isinstance(part, ast.Name)
        }:
            return False  # it calls methods of the items
        return all(map(self._is_plain, values))

    def _has_plain_defaults(self, arguments: ast.arguments) -> bool:
        values = [*arguments.defaults, *arguments.kw_defaults]
        return all(value is None or self._is_plain(value) for value in values)

    def _is_annotation(self, node: ast.expr | None) -> bool:
        """Return True if an annotation is a type whose evaluation runs no code of the plugin."""
        if node is None or self._lazy_annotations or isinstance(node, ast.Constant):
            return True
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            return self._is_annotation(node.left) and self._is_annotation(node.right)
        if isinstance(node, (ast.Tuple, ast.List)):
            return all(map(self._is_annotation, node.elts))
        if isinstance(node, ast.Subscript):
            path = self._path_of(node.value)
            known = path in TYPES or path.startswith(GENERIC_MODULES)
            return known and self._is_annotation(node.slice)
        return isinstance(node, (ast.Name, ast.Attribute)) and (
            self._is_plain_name(node)
            and not (isinstance(node, ast.Name) and node.id in self._constants | self._values)
        )

    def _is_known_base(self, node: ast.expr) -> bool:
        path = self._path_of(node)
        plugin_class = isinstance(node, ast.Name) and node.id in self._classes
        return plugin_class or path in BASES or path.startswith("torch.")

    def _is_known_decorator(self, node: ast.expr, known: set[str]) -> bool:
        if isinstance(node, ast.Call):
            return self._path_of(node.func) in known and self._has_plain_arguments(node)
        return self._path_of(node) in known

    def _path_of(self, node: ast.expr) -> str:
        """Return the path of a name, such as `torch.no_grad`, or "" if it is not known."""
        if isinstance(node, ast.Attribute):
            path = self._path_of(node.value)
            return f"{path}.{node.attr}" if path and node.attr not in self._reassigned else ""
        if not isinstance(node, ast.Name) or node.id in self._in_class:
            return ""
        if node.id in self._bound:
            path = self._imports.get(node.id, "")
            return "" if self._reassigned & {*path.split(".")} else path
        return "" if node.id in self._reassigned else node.id  # a builtin function or type


def _is_accessor(node: ast.expr, methods: Iterable[str]) -> bool:
    """Return True for a decorator such as `@x.setter`, if `x` is a method above."""
    return (
        isinstance(node, ast.Attribute)
        and node.attr in ACCESSORS
        and isinstance(node.value, ast.Name)
        and node.value.id in methods
    )
