"""Functions of the library in a page: a fence of the language ``source`` names one, this shows it.

The code is read when the site is built, so that no page can show what the library no longer does.
"""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path
from typing import Any

PACKAGES = Path(__file__).resolve().parents[2] / "src"
FENCE = re.compile(r"^```source\n(?P<name>[\w.]+)\n```$", flags=re.MULTILINE)

Definition = ast.FunctionDef | ast.ClassDef


def code_of(name: str) -> tuple[Path, str]:
    """File and code, without docstring, of ``package.module.function`` or ``….Class.method``.

    Raises
    ------
    LookupError
        There is no such function or class.
    """
    parts = name.split(".")
    for depth in range(len(parts) - 1, 0, -1):
        file = PACKAGES.joinpath(*parts[:depth]).with_suffix(".py")
        if file.is_file():
            text = file.read_text(encoding="utf-8")
            node: ast.AST = ast.parse(text)
            for part in parts[depth:]:
                node = _inside(node, part, name)
            assert isinstance(node, Definition)
            return file.relative_to(PACKAGES.parent), _without_docstring(node, text.splitlines())
    raise LookupError(f"{name}: no such module in {PACKAGES}")


def _inside(node: ast.AST, part: str, name: str) -> Definition:
    for inner in ast.iter_child_nodes(node):
        if isinstance(inner, Definition) and inner.name == part:
            return inner
    raise LookupError(f"{name}: has no {part!r}; was it renamed?")


def _without_docstring(node: Definition, lines: list[str]) -> str:
    start = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1
    code = lines[start : node.end_lineno]
    if ast.get_docstring(node) is not None:
        first = node.body[0]
        assert first.end_lineno is not None
        del code[first.lineno - 1 - start : first.end_lineno - start]
        # A class, and a function that had room after its docstring, begins without a blank line.
        body = first.lineno - 1 - start
        while body < len(code) and not code[body].strip():
            del code[body]
    return textwrap.dedent("\n".join(code))


def shown(found: re.Match[str]) -> str:
    """The fence that takes the place of one."""
    name = found["name"]
    file, code = code_of(name)
    return f'```python title="{file}"\n{code}\n```'


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by MkDocs for every page, before Markdown."""
    return FENCE.sub(shown, markdown)
