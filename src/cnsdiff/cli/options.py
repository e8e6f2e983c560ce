"""Options that several commands have alike."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cnsdiff.cli import completion

#: Read a run at another dial.
Dial = Annotated[
    float | None,
    typer.Option(
        help="Read the run at this dial, not at its own: below 0 popularity counts for less "
        "than in training, above for more, 0 leaves the scores as trained. The environment of a "
        "rehearsal, or of known counts, is left out then."
    ),
]


class SeenChoice(StrEnum):
    """The part of a user's past that lists leave out."""

    all = "all"
    train = "train"
    none = "none"


#: What a user already has.
Seen = Annotated[
    SeenChoice,
    typer.Option(
        help="What a user already has and is not shown: all that the log says, the pairs of train "
        "alone, or none."
    ),
]

#: Where help shows how a log is read.
_READING = "Reading a log"
Randomised = Annotated[
    Path | None,
    typer.Option(
        help="Interactions shown at random or in full (exposure).", rich_help_panel=_READING
    ),
]
UserFeatures = Annotated[
    Path | None, typer.Option(help="What is known of users.", rich_help_panel=_READING)
]
ItemFeatures = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[NAME=]FILE",
        help="What is known of items: a table, and beside it others by name, or vectors in its "
        "order (image=vectors.npy); repeatable.",
        rich_help_panel=_READING,
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        help="Least rating of a positive (default: told from the log).", rich_help_panel=_READING
    ),
]
UserCore = Annotated[
    int, typer.Option(min=0, max=10**9, help="Least positives of a user.", rich_help_panel=_READING)
]
ItemCore = Annotated[
    int,
    typer.Option(min=0, max=10**9, help="Least positives of an item.", rich_help_panel=_READING),
]
MaxPerUser = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=10**9,
        help="Leave out users of more positives: crawlers, tests.",
        rich_help_panel=_READING,
    ),
]
Format = Annotated[
    str,
    typer.Option(
        help=f"{completion.words('formats')}.",
        autocompletion=completion.file_format,
        rich_help_panel=_READING,
    ),
]
UserColumn = Annotated[
    str | None, typer.Option(help="Name of the user column.", rich_help_panel=_READING)
]
ItemColumn = Annotated[
    str | None, typer.Option(help="Name of the item column.", rich_help_panel=_READING)
]
RatingColumn = Annotated[
    str | None, typer.Option(help="Name of the rating column, or 'none'.", rich_help_panel=_READING)
]
TimestampColumn = Annotated[
    str | None, typer.Option(help="Name of the time column, or 'none'.", rich_help_panel=_READING)
]
PeriodColumn = Annotated[
    str | None,
    typer.Option(help="Name of the column of periods, or 'none'.", rich_help_panel=_READING),
]
EventColumn = Annotated[
    str | None,
    typer.Option(
        help="Name of the column of types of events, or 'none'.", rich_help_panel=_READING
    ),
]
Events = Annotated[
    str | None,
    typer.Option(
        metavar="EVENT[=WEIGHT],...",
        help="Events to keep (purchase,cart), or their weights in training "
        "(purchase=1,cart=0.5); default: all alike.",
        rich_help_panel=_READING,
    ),
]
TimeUnit = Annotated[
    str,
    typer.Option(
        help="What times count since 1970: s, ms, us, ns or days (auto: told by their size).",
        autocompletion=completion.time_unit,
        rich_help_panel=_READING,
    ),
]
Header = Annotated[
    bool | None,
    typer.Option(help="Whether the first line names the columns.", rich_help_panel=_READING),
]
Delimiter = Annotated[
    str | None,
    typer.Option(
        help="What separates the fields of text: ';', tab, space, … (default: told from it).",
        autocompletion=completion.delimiter,
        rich_help_panel=_READING,
    ),
]
LiteralIds = Annotated[
    bool,
    typer.Option(
        "--literal-ids", help="Take every id as it is written: NA, null, 1.0 and 1.2E+17 too."
    ),
]
SkipBad = Annotated[
    bool,
    typer.Option(
        "--skip-bad", help="Leave malformed lines out, and say which.", rich_help_panel=_READING
    ),
]

#: How long a model is to hold.
Horizon = Annotated[
    str | None,
    typer.Option(
        help="Rehearse so long a time at the end of the training data (30d, 2w; below 1, a share "
        "of the interactions), choose there, then train on everything: --select-on rehearsal."
    ),
]

# How the work is done, and told.
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="The one seed.")]
OwnSeed = Annotated[int | None, typer.Option(min=0, max=2**63 - 1, help="The one seed.")]
Device = Annotated[
    str | None,
    typer.Option(help="auto, cpu, cuda, cuda:1.", autocompletion=completion.device),
]
Threads = Annotated[int | None, typer.Option(min=1, max=1024, help="CPU threads.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
NewItems = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[NAME=]FILE",
        help="Add these items first, of a run with content: a table of ids and the features that "
        "it was trained with, or several as of --item-features. Items known already are skipped.",
    ),
]
