"""The command line; each command lives in a file of its own name.

Heavy imports (PyTorch, Polars) happen inside the commands, so that ``--help`` is quick.
"""

from __future__ import annotations

import io
import sys


def main() -> None:
    """Run ``cnsdiff``; the entry point of the package.

    Every failure ends here: a sentence on standard error, with ``--json`` also a document on
    standard output, and the exit code.
    """
    from cnsdiff.cli.app import app
    from cnsdiff.cli.failure import document, tell, wants_json
    from cnsdiff.cli.warned import tell_warnings_in_one_line
    from cnsdiff.errors import CnsdiffError
    from cnsdiff.visible import visible

    tell_warnings_in_one_line()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as standard error is
    # Standing alone, Typer itself shows wrong usage, in colours and a frame, to the letter.
    ours = wants_json() or any(visible(word) != word for word in sys.argv)
    try:
        code = app(standalone_mode=not ours) or 0
    except CnsdiffError as error:
        tell(str(error), error.exit_code)
        sys.exit(error.exit_code)
    except OSError as error:
        # What the library writes is guarded; this is a pipe closed early, say.
        if isinstance(error, BrokenPipeError):
            sys.exit(1)
        tell(f"{error}; check the path and its permissions", 1)
        sys.exit(1)
    except Exception as error:
        # Wrong usage; what the class is called differs between versions of Typer.
        if not (ours and hasattr(error, "format_message") and hasattr(error, "exit_code")):
            raise
        tell(error.format_message(), error.exit_code)
        sys.exit(error.exit_code)
    if code == 130 and wants_json():  # Ctrl-C where nothing is kept that could be told
        document("interrupted", code)
    sys.exit(code)
