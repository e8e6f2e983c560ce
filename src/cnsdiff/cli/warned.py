"""Warnings of our own, told in one line."""

from __future__ import annotations

import warnings


def tell_warnings_in_one_line() -> None:
    """From now on a ``CnsdiffWarning`` is a line without file and code."""
    from cnsdiff.base.errors import CnsdiffWarning
    from cnsdiff.base.visible import visible

    written = warnings.formatwarning

    def in_one_line(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        line: str | None = None,
    ) -> str:
        if issubclass(category, CnsdiffWarning):
            return f"cnsdiff: {visible(message)}\n"
        return written(message, category, filename, lineno, line)

    warnings.formatwarning = in_one_line
