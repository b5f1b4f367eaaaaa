"""Tests whether a statement at the top level of a file only defines names.

Every other statement may have an effect on the rest of the file or on torch, so that it is part of
the hash of every function of the plugin. A statement that is wrongly taken for one with an effect
only lets more edits change the hash; the reverse would let an edit go unnoticed. Calls and
decorators therefore count as effects unless they are in a list.
"""

from __future__ import annotations

import ast
import builtins
from collections import Counter
from collections.abc import Iterable, Iterator

# The calls and decorators that only return a value. Those of `studies` build a study.
CALLS = {
    *("bool", "int", "float", "complex", "str", "bytes", "tuple", "list", "dict", "set"),
    *("frozenset", "range", "len", "abs", "round", "slice", "object"),
    *("functools.partial", "dataclasses.field", "dataclasses.replace", "pathlib.Path"),
    *("typing.TypeVar", "typing.NewType", "typing.NamedTuple", "typing.cast"),
    *("collections.namedtuple", "collections.OrderedDict", "collections.defaultdict"),
    *("fractions.Fraction", "decimal.Decimal", "logging.getLogger"),
    *("torch.tensor", "torch.zeros", "torch.ones", "torch.arange", "torch.device", "torch.Size"),
}
CALLED_MODULES = {"math", "studies"}
DECORATORS = {
    *("property", "staticmethod", "classmethod"),
    *("dataclasses.dataclass", "contextlib.contextmanager", "abc.abstractmethod"),
    *("functools.cache", "functools.lru_cache", "functools.cached_property", "functools.wraps"),
    *("typing.overload", "typing.override", "typing.final", "typing.no_type_check"),
    *("torch.no_grad", "torch.enable_grad", "torch.inference_mode", "torch.compile"),
    *("torch.jit.script", "torch.jit.ignore"),
    *("trainables.plugins.optimizer", "trainables.plugins.workload"),
}
ACCESSORS = {"setter", "getter", "deleter"}
VALUES = (
    *(ast.Constant, ast.Name, ast.Attribute, ast.Subscript, ast.Slice, ast.Starred),
    *(ast.Tuple, ast.List, ast.Set, ast.Dict, ast.JoinedStr, ast.FormattedValue),
    *(ast.UnaryOp, ast.BinOp, ast.BoolOp, ast.Compare, ast.IfExp),
    *(ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.comprehension),
    *(ast.expr_context, ast.operator, ast.unaryop, ast.boolop, ast.cmpop),
)
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
CLASS_HOOKS = {"__init_subclass__", "__set_name__"}


def bound(statement: ast.stmt) -> Iterator[str]:
    """Yield the names that a statement binds at the top level, also inside a block."""
    if isinstance(statement, DEFINITIONS):
        yield statement.name
        return
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, (*DEFINITIONS, ast.ExceptHandler)) and node.name:
            yield node.name


def is_class_hook(node: ast.AST) -> bool:
    """Return True if a node makes definitions of subclasses run code: a method or a metaclass."""
    if isinstance(node, ast.ClassDef):
        return bool(node.keywords)
    return isinstance(node, ast.FunctionDef) and node.name in CLASS_HOOKS


class Definitions:
    """Decides which statements of a module only define names.

    Args:
        statements: The statements at the top level.
        mentioned: All names that the module mentions. An import of another name may be for its
            effects.
        subclass_hooks: True if the definition of a subclass can run code of the plugin.
    """

    def __init__(
        self, statements: Iterable[ast.stmt], mentioned: Iterable[str], subclass_hooks: bool
    ):
        statements = list(statements)
        self._mentioned = set(mentioned)
        self._imports: dict[str, str] = {}
        counts = Counter(name for statement in statements for name in bound(statement))
        for statement in statements:
            for name, path in _imported(statement):
                if counts[name] == 1:
                    self._imports[name] = path
        self._bound = set(counts)
        self._subclass_hooks = subclass_hooks

    def only_defines(self, node: ast.stmt) -> bool:
        """Return True if the statement only defines names."""
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = set(bound(node))
            future = isinstance(node, ast.ImportFrom) and node.module == "__future__"
            return not future and names <= self._mentioned
        return self._is_pure_definition(node)

    def _is_pure_definition(self, node: ast.stmt, in_class: bool = False) -> bool:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            arguments = node.args
            parameters = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
            variadic = [a for a in (arguments.vararg, arguments.kwarg) if a]
            evaluated = [*arguments.defaults, *arguments.kw_defaults, node.returns]
            evaluated += [argument.annotation for argument in [*parameters, *variadic]]
            return all(self._is_known_decorator(d, in_class) for d in node.decorator_list) and all(
                value is None or self._is_pure_value(value) for value in evaluated
            )
        if isinstance(node, ast.ClassDef):
            hooked = self._subclass_hooks and bool(node.bases)
            return (
                not node.keywords
                and not hooked
                and all(self._is_known_decorator(d) for d in node.decorator_list)
                and all(self._is_pure_value(base) for base in node.bases)
                and all(self._is_pure_definition(part, in_class=True) for part in node.body)
            )
        if isinstance(node, ast.Assign):
            return all(map(_is_name, node.targets)) and self._is_pure_value(node.value)
        if isinstance(node, ast.AnnAssign):
            parts = [node.annotation, *([node.value] if node.value else [])]
            return _is_name(node.target) and all(map(self._is_pure_value, parts))
        return isinstance(node, ast.Pass) or type(node).__name__ == "TypeAlias"

    def _is_pure_value(self, node: ast.AST) -> bool:
        """Return True if the evaluation of an expression has no effect."""
        if isinstance(node, ast.Lambda):  # its body does not run
            values = [*node.args.defaults, *node.args.kw_defaults]
            return all(value is None or self._is_pure_value(value) for value in values)
        if isinstance(node, ast.Call):
            path = self._path_of(node.func)
            known = path in CALLS or path.partition(".")[0] in CALLED_MODULES
            arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
            return known and all(map(self._is_pure_value, arguments))
        return isinstance(node, VALUES) and all(
            map(self._is_pure_value, ast.iter_child_nodes(node))
        )

    def _is_known_decorator(self, node: ast.expr, in_class: bool = False) -> bool:
        if in_class and isinstance(node, ast.Attribute) and node.attr in ACCESSORS:
            return isinstance(node.value, ast.Name)
        if isinstance(node, ast.Call):
            arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
            return self._is_known_decorator(node.func) and all(map(self._is_pure_value, arguments))
        return self._path_of(node) in DECORATORS

    def _path_of(self, node: ast.expr) -> str:
        """Return the path of a name, such as `torch.no_grad`, or "" if it is not known."""
        if isinstance(node, ast.Attribute):
            path = self._path_of(node.value)
            return f"{path}.{node.attr}" if path else ""
        if not isinstance(node, ast.Name):
            return ""
        if node.id in self._imports:
            return self._imports[node.id]
        return node.id if node.id not in self._bound and hasattr(builtins, node.id) else ""


def _imported(statement: ast.stmt) -> Iterator[tuple[str, str]]:
    """Yield the names that an absolute import binds, with their paths."""
    if isinstance(statement, ast.Import):
        for alias in statement.names:
            root = alias.name.partition(".")[0]
            yield (alias.asname, alias.name) if alias.asname else (root, root)
    elif isinstance(statement, ast.ImportFrom) and not statement.level:
        for alias in statement.names:
            yield alias.asname or alias.name, f"{statement.module}.{alias.name}"


def _is_name(node: ast.expr) -> bool:
    """Return True for a target that is a name, or a tuple of names."""
    if isinstance(node, (ast.Tuple, ast.List)):
        return all(map(_is_name, node.elts))
    return isinstance(node, ast.Name)
