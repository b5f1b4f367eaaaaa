"""Configuration of Sphinx: `make docs` builds the pages into docs/_build."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

project = "precond"
author = "the precond developers"
release = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "generated"]
highlight_language = "text"  # most blocks are commands and their output
smartquotes = False  # or `--json` would become a dash
default_role = "code"  # `name` in a docstring is code

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_use_ivar = True
python_use_unqualified_type_names = True

html_theme = "pydata_sphinx_theme"
html_title = f"precond {release}"
html_static_path = ["_static"]
html_css_files = ["precond.css"]
html_sidebars = {"tutorial": []}  # it has no subpages
html_math_renderer = "mathml"
html_show_sourcelink = False
html_theme_options = {
    "show_prev_next": False,
    "navigation_with_keys": False,
    "navbar_align": "left",
    # Pages with wide tables or listings have no table of contents.
    "secondary_sidebar_items": {"**": ["page-toc"], "optimizers": [], "studies": []},
    "footer_start": ["copyright"],
    "footer_end": [],
}
copybutton_exclude = ".linenos, .gp"


def inline_math(self, node: nodes.math) -> None:
    """Write a formula in a line as MathML, which browsers draw without a script or a network."""
    self.body.append(tex2mathml(node.astext(), as_block=False))
    raise nodes.SkipNode


def display_math(self, node: nodes.math_block) -> None:
    """Write a displayed formula as MathML."""
    self.body.append(f'<div class="math">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def write_generated_pages(app: Sphinx) -> None:
    """Write the tables that the code prints, and the help of the commands without click."""
    from precond.__main__ import markdown as optimizers
    from studies.harness.command.catalogue import markdown as studies

    folder = Path(app.srcdir) / "generated"
    folder.mkdir(exist_ok=True)
    pages = {"optimizers.md": optimizers(), "studies.md": studies()}
    for module in ("trainables", "trainables.cost", "precond"):
        command = [sys.executable, "-m", module, "--help"]
        environment = {**os.environ, "COLUMNS": "88", "PYTHONPATH": str(ROOT)}
        pages[f"{module}.txt"] = subprocess.run(
            command, env=environment, cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout
    for name, text in pages.items():
        (folder / name).write_text(text + "\n")


def literal_blocks(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Turn the indented blocks of a docstring into literal blocks, and escape `|` elsewhere."""
    result: list[str] = []
    indent, literal = 0, False
    for line in lines:
        depth = len(line) - len(line.lstrip())
        if line.strip():
            literal = (
                depth > indent if literal else depth > indent and bool(result) and not result[-1]
            )
            if literal and not result[-1] and "::" not in result[-2:]:
                result += [" " * indent + "::", ""]
            indent = indent if literal else depth
        parts = line.split("`")
        parts[::2] = [part if literal else part.replace("|", r"\|") for part in parts[::2]]
        result.append("`".join(parts))
    lines[:] = result


def parsable_signature(
    app: Sphinx,
    what: str,
    name: str,
    obj: object,
    options: object,
    signature: str | None,
    result: str,
) -> tuple[str, str] | None:
    """Replace `<factory>`, the default of a dataclass field, by `...`, which Sphinx can parse."""
    return (signature.replace("<factory>", "..."), result) if signature else None


def setup(app: Sphinx) -> None:
    """Register the renderer of formulas and the generator of the tables."""
    app.add_html_math_renderer("mathml", (inline_math, None), (display_math, None))
    app.connect("autodoc-process-docstring", literal_blocks, priority=0)  # before napoleon
    app.connect("autodoc-process-signature", parsable_signature)
    app.connect("builder-inited", write_generated_pages)
