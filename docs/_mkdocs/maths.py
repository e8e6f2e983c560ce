"""Equations as MathML, which browsers draw by themselves: no script, no font, nothing to load."""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert

#: What the Markdown extension ``pymdownx.arithmatex`` leaves of ``$…$`` and ``$$…$$``.
EQUATION = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\(?:\(|\[)(?P<latex>.*?)\\(?:\)|\])</(?P=tag)>',
    flags=re.DOTALL,
)


def as_mathml(found: re.Match[str]) -> str:
    """The element of one equation; a formula of its own line scrolls where it is too wide."""
    latex = html.unescape(found["latex"]).strip()
    own_line = found["tag"] == "div"
    mathml = convert(latex, display="block" if own_line else "inline")
    return f'<div class="equation">{mathml}</div>' if own_line else mathml


def on_page_content(content: str, **_: Any) -> str:
    """Called by MkDocs for every page, between Markdown and template."""
    return EQUATION.sub(as_mathml, content)
