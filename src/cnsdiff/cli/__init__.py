"""The command line; each command lives in a file of its own name.

Heavy imports (PyTorch, Polars) happen inside the commands, so that ``--help`` is quick.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run ``cnsdiff``; the entry point of the package.

    Every failure ends here: a sentence on standard error, with ``--json`` also a document on
    standard output, and the exit code.
    """
    from cnsdiff.cli.failure import output_lost, usable_streams

    code = 0
    with usable_streams():
        try:
            code = _run()
            sys.stdout.flush()
        except OSError as error:
            code = max(code, output_lost(error))
    sys.exit(code)


def _run() -> int:
    """Carry the command out, and say so if it fails; the exit code."""
    from cnsdiff.base.errors import CnsdiffError, is_of_memory
    from cnsdiff.base.text import visible
    from cnsdiff.cli.app import app
    from cnsdiff.cli.failure import (
        document,
        is_of_standard_output,
        tell,
        tell_warnings_in_one_line,
        wants_json,
    )

    tell_warnings_in_one_line()
    # Standing alone, Typer itself shows wrong usage, in colours and a frame, to the letter.
    ours = wants_json() or any(visible(word) != word for word in sys.argv)
    try:
        code = app(standalone_mode=not ours) or 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except CnsdiffError as error:
        tell(str(error), error.exit_code)
        return error.exit_code
    except OSError as error:
        if is_of_standard_output(error):
            raise
        # What the library writes is guarded.
        tell(f"{error}; check the path and its permissions", 1)
        return 1
    except UnicodeEncodeError as error:  # of a path, where the locale has no other letters
        tell(
            f"{error.object}: cannot be the name of a file in the encoding {error.encoding}; set "
            "PYTHONUTF8=1",
            2,
        )
        return 2
    except Exception as error:
        if is_of_memory(error):
            tell("there is not enough memory for this; use smaller settings or less data", 2)
            return 2
        # Wrong usage; what the class is called differs between versions of Typer.
        if not (ours and hasattr(error, "format_message") and hasattr(error, "exit_code")):
            raise
        tell(error.format_message(), error.exit_code)
        return int(error.exit_code)
    if code == 130 and wants_json():  # Ctrl-C where nothing is kept that could be told
        document("interrupted", code)
    return int(code)
