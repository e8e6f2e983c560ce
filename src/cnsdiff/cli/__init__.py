"""The command line; each command lives in a file of its own name.

Heavy imports (PyTorch, Polars) happen inside the commands, so that ``--help`` is quick.
"""

from __future__ import annotations

import sys
import warnings


def main() -> None:
    """Run ``cnsdiff``; the entry point of the package."""
    from cnsdiff.cli.app import app
    from cnsdiff.errors import CnsdiffError, CnsdiffWarning

    written = warnings.formatwarning

    def in_one_line(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        line: str | None = None,
    ) -> str:
        if issubclass(category, CnsdiffWarning):
            return f"cnsdiff: {message}\n"
        return written(message, category, filename, lineno, line)

    warnings.formatwarning = in_one_line
    try:
        app()
    except CnsdiffError as error:
        print(f"cnsdiff: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        # What the library writes is guarded; this is a pipe closed early, say.
        if isinstance(error, BrokenPipeError):
            sys.exit(1)
        print(f"cnsdiff: {error}; check the path and its permissions", file=sys.stderr)
        sys.exit(1)
