"""The hash of the code that a registered function uses.

The hash covers the statement that defines the function and, transitively, the statements that bind
the names in it: functions, classes, constants, imports. Comments, docstrings, blank lines and
layout are not hashed, and neither are the definitions that the function cannot reach.

Python cannot be analysed completely. Whatever the analysis does not understand is therefore hashed:

- Statements that can have an effect when the file is imported, such as a call or an assignment to
  an attribute, are part of every hash of the plugin, with everything that they refer to.
- A module that is imported from the plugin's folder is hashed as a whole.
- If a file uses code that can reach names as texts (`globals`, `exec`, `import *`, the text
  `"__globals__"` and others, see `_is_dynamic`), the bytes of all files are hashed.

Of the installed packages that the code imports, the versions are hashed (`packages.py`). All other
modules from outside the plugin, and data that it reads, are not hashed.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property

from trainables.config import digest
from trainables.plugins import bindings, effects, packages
from trainables.plugins.sources import Source, Sources

DYNAMIC_NAMES = {
    *("globals", "locals", "vars", "dir", "exec", "eval", "compile", "__import__"),
    *("__builtins__", "__doc__", "__file__", "__loader__", "__spec__"),
}
DYNAMIC_ATTRIBUTES = {
    *("__dict__", "__globals__", "__code__", "__closure__", "__doc__", "__subclasses__"),
    *("__builtins__", "_getframe", "f_globals", "f_locals"),
}
DYNAMIC_MODULES = {"importlib", "inspect", "runpy", "gc", "builtins", "pkgutil", "ast"}


def code_hash_of(files: Sources, module: str, function: str) -> str:
    """Return the SHA-256 of the code and the versions of packages that a registered function uses.

    The arguments are those of `code_of`.
    """
    code, versions = code_of(files, module, function)
    return digest([code, versions]) if versions else code


def code_of(files: Sources, module: str, function: str) -> tuple[str, dict[str, str]]:
    """Return the SHA-256 of the code that a registered function uses, and versions of packages.

    Args:
        files: The plugin.
        module: The module that defines the function, "" for a single file.
        function: The function's qualified name. If it is not the name of a function or a class at
            the top level of the module, the bytes of all files are hashed.
    """
    try:
        modules = {name: Module(name, source) for name, source in files.files.items()}
        target = modules.get(module)
        dynamic = any(m.is_dynamic for m in modules.values())
        if dynamic or target is None or function not in target.functions:
            used = {name: set(range(len(m.statements))) for name, m in modules.items()}
            code = files.sha256
        else:
            used = _used_statements(modules, target, function)
            code = digest(
                [
                    [name, [_canonical(modules[name].statements[i]) for i in sorted(numbers)]]
                    for name, numbers in sorted(used.items())
                ]
            )
    except (SyntaxError, ValueError, RecursionError):
        return files.sha256, {}
    # Code that reaches names as texts can import any file.
    names = set(modules) if dynamic else imported_modules(modules, files.modules)
    return code, packages.versions(_imported_packages({n: modules[n] for n in names}, used))


def _imported_packages(modules: dict[str, Module], used: Mapping[str, set[int]]) -> set[str]:
    """Return the packages that are imported with the modules, or by the statements that are used."""
    return {
        package
        for name, module in modules.items()
        for number, statement in enumerate(module.statements)
        if number in used.get(name, ()) or not isinstance(statement, bindings.DEFINITIONS)
        for package in packages.imports(statement)
    }


def _used_statements(
    modules: dict[str, Module], target: Module, function: str
) -> dict[str, set[int]]:
    """Return the numbers of the statements that a function uses, by module."""
    waiting = [(target.name, number) for number in target.bindings[function]]
    hooks = any(m.has_class_hooks for m in modules.values())
    reassigned = {name for m in modules.values() for name in bindings.reassigned(m.statements)}
    for m in modules.values():
        waiting += [(m.name, number) for number in m.statements_with_effects(reassigned, hooks)]
    used: dict[str, set[int]] = defaultdict(set)
    while waiting:
        name, number = waiting.pop()
        if number in used[name]:
            continue
        used[name].add(number)
        module = modules[name]
        waiting += [(name, i) for text in module.names[number] for i in module.bindings[text]]
        for other in module.imported(number, set(modules)):
            waiting += [(other, i) for i in range(len(modules[other].statements))]
    return used


def imported_modules(modules: Mapping[str, Module], names: Iterable[str]) -> set[str]:
    """Return these modules and all modules that they import, also in functions."""
    waiting, reached = [*names], set()
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            for number in range(len(modules[name].statements)):
                waiting += modules[name].imported(number, set(modules))
    return reached


class Module:
    """A parsed file of a plugin.

    Attributes:
        name: The name of the module, relative to the plugin.
        statements: The statements at its top level, without docstrings and without the block
            `if __name__ == "__main__":`, which does not run when a plugin is imported.
    """

    def __init__(self, name: str, source: Source):
        self.name = name
        self._is_package = source.package
        tree = ast.parse(source.content)
        # Imports that only the omitted block uses are not imported for their effects.
        self._mentioned = set(_mentioned(tree))
        tree = _WithoutTexts().visit(tree)
        self.statements = [s for s in tree.body if not _is_main_block(s) and not _is_pass(s)]

    @cached_property
    def names(self) -> list[set[str]]:
        """The names that each statement mentions, of those that the module binds."""
        return [set(_mentioned(s)) & self.bindings.keys() for s in self.statements]

    @cached_property
    def bindings(self) -> dict[str, list[int]]:
        """The numbers of the statements that bind a name, by name."""
        numbers: dict[str, list[int]] = defaultdict(list)
        for number, statement in enumerate(self.statements):
            for name in bindings.bound(statement):
                numbers[name].append(number)
        return numbers

    @cached_property
    def functions(self) -> set[str]:
        """The names of the functions and the classes at the top level."""
        kinds = (ast.FunctionDef, ast.ClassDef)
        return {s.name for s in self.statements if isinstance(s, kinds)}

    @property
    def has_class_hooks(self) -> bool:
        """True if the module mentions a method that runs when a class is defined."""
        return any(effects.CLASS_HOOKS & {*bindings.texts(s)} for s in self.statements)

    def statements_with_effects(self, reassigned: set[str], class_hooks: bool) -> list[int]:
        """Return the numbers of the statements that can have an effect at the import.

        Args:
            reassigned: The names that a module of the plugin may bind again.
            class_hooks: True if the definition of a class may run code of the plugin.
        """
        return effects.Definitions(
            self.statements, self._mentioned, reassigned, class_hooks
        ).effects

    @cached_property
    def is_dynamic(self) -> bool:
        """True if the module can reach names that its statements do not mention."""
        return any(_is_dynamic(node) for s in self.statements for node in ast.walk(s))

    def imported(self, number: int, modules: set[str]) -> set[str]:
        """Return the modules of the plugin that a statement imports, and their packages."""
        imports = set()
        for node in ast.walk(self.statements[number]):
            if isinstance(node, ast.ImportFrom) and node.level:
                parts = self.name.split(".") if self.name else []
                parts = parts[: len(parts) + self._is_package - node.level]
                parts += node.module.split(".") if node.module else []
                imports |= {".".join(parts[:length]) for length in range(len(parts) + 1)}
                imports |= {".".join([*parts, alias.name]) for alias in node.names}
        return imports & modules


class _WithoutTexts(ast.NodeTransformer):
    """Removes docstrings and other statements that are only a constant."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        node = super().generic_visit(node)
        if isinstance(getattr(node, "body", None), list) and not node.body:  # type: ignore[attr-defined]
            node.body = [ast.Pass()]  # type: ignore[attr-defined]
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        """Remove a constant."""
        return None if isinstance(node.value, ast.Constant) else node


def _is_pass(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Pass)


def _is_main_block(statement: ast.stmt) -> bool:
    """Return True for `if __name__ == "__main__":` without `else`."""
    return (
        isinstance(statement, ast.If)
        and not statement.orelse
        and ast.unparse(statement.test) in ("__name__ == '__main__'", "'__main__' == __name__")
    )


def _mentioned(node: ast.AST) -> Iterator[str]:
    """Yield all names in a statement, also those in annotations that are texts."""
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            yield part.id
        elif isinstance(part, (ast.Global, ast.Nonlocal)):
            yield from part.names
        for annotation in (getattr(part, "annotation", None), getattr(part, "returns", None)):
            for text in ast.walk(annotation) if annotation else ():
                if isinstance(text, ast.Constant) and isinstance(text.value, str):
                    yield from re.findall(r"\w+", text.value)


def _is_dynamic(node: ast.AST) -> bool:
    """Return True if a node can reach names that the code does not mention."""
    if isinstance(node, ast.Name):
        return node.id in DYNAMIC_NAMES
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return bool(DYNAMIC_ATTRIBUTES & {*node.value.split(".")})  # getattr(f, "__globals__")
    if isinstance(node, ast.Attribute):
        return node.attr in DYNAMIC_ATTRIBUTES or (
            # `sys.modules`, but not the method `modules` of a model
            node.attr == "modules" and isinstance(node.value, ast.Name) and node.value.id == "sys"
        )
    if isinstance(node, ast.Import):
        renamed = any(a.name == "sys" and a.asname for a in node.names)
        return renamed or any(a.name.partition(".")[0] in DYNAMIC_MODULES for a in node.names)
    if isinstance(node, ast.ImportFrom):
        root = (node.module or "").partition(".")[0]
        named = {alias.name for alias in node.names}
        return "*" in named or (not node.level and root in {*DYNAMIC_MODULES, "sys"})
    return False


def _canonical(node: object) -> object:
    """Return a node of the syntax tree as lists and texts, without positions.

    Empty fields are omitted, because versions of Python add fields.
    """
    if isinstance(node, ast.Constant):
        return [type(node.value).__name__, repr(node.value)]
    if isinstance(node, ast.AST):
        fields = {
            name: _canonical(value)
            for name, value in ast.iter_fields(node)
            if value is not None and value != [] and name not in ("ctx", "type_comment")
        }
        return [type(node).__name__, fields]
    if isinstance(node, list):
        return [_canonical(part) for part in node]
    return repr(node)
