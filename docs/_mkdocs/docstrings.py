"""Docstrings in reStructuredText's habits, read as the Markdown that the site is made of."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

#: ``:class:`~cnsdiff.Recommender` `` and its like.
ROLE = re.compile(r":(?:py:)?(?:class|func|meth|mod|data|attr|exc):`(~?)([^`]+)`")


#: A page of this site, as the source names it.
PAGE = re.compile(r"(?:``)?docs/([\w-]+)\.md(?:``)?")


class PlainDocstrings(Extension):
    """A role becomes the name in code, a page a link, and ``::`` before a code block a colon."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Called by griffe for every module, class, function and attribute."""
        if obj.docstring is not None:
            text = ROLE.sub(lambda found: f"`{shown(*found.groups())}`", obj.docstring.value)
            text = PAGE.sub(r"[\1](\1.md)", text)
            obj.docstring.value = re.sub(r"::$", ":", text, flags=re.MULTILINE)


def shown(short: str, name: str) -> str:
    """What Sphinx would show: the last part alone after a ``~``."""
    return name.rpartition(".")[2] if short else name
