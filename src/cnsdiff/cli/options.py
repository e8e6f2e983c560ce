"""Options that several commands have alike."""

from __future__ import annotations

from typing import Annotated

import typer

#: Read a run at another dial.
Dial = Annotated[
    float | None,
    typer.Option(
        help="Read the run at this dial, not at its own: below 0 popularity counts for less "
        "than in training, above for more, 0 leaves the scores as trained."
    ),
]
