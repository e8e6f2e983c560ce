"""The section on what limits an audit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cnsdiff.report.document import Block, Prose, verbatim


def titles_by_text(said: Iterable[tuple[str, Sequence[str]]]) -> dict[str, list[str]]:
    """Each sentence once, with the titles of the shifts that it is said of."""
    found: dict[str, list[str]] = {}
    for title, texts in said:
        for text in texts:
            found.setdefault(text, []).append(title)
    return found


def limits_of_shifts(result: Mapping[str, Any]) -> dict[str, list[str]]:
    """What limits the numbers, and under which shifts."""
    return titles_by_text((shift["title"], shift["limits"]) for shift in result["shifts"])


def limit_blocks(result: Mapping[str, Any]) -> list[Block]:
    """The limits of the shifts, then those of all audits."""
    limits = limits_of_shifts(result)
    said = [
        f"**{verbatim(', '.join(titles))}:** {verbatim(text)}" for text, titles in limits.items()
    ]
    said += [
        f"**{verbatim(one['name'])}** was not measured: {verbatim(one['reason'])}."
        for one in result["left_out"]
    ]
    said += [
        f"**{verbatim(f['method'])}** failed under {verbatim(f['shift'])}: {verbatim(f['error'])}."
        for f in result["failures"]
    ]
    said += map(verbatim, result["notes"])
    budget = result["budget"]
    said.append(
        f"The budget was {budget['words']}, and one seed: where the clock ended a training, "
        "another machine may find other numbers, and another seed moves them a little. No "
        "settings were searched; cnsdiff benchmark compares methods with a search and several "
        "seeds."
    )
    said.append(
        "Intervals are over users: how sure a number is for people like these. A shift made from "
        "a log is a model of a shift; only an experiment with items shown at random is free of "
        "what the log's own recommender showed."
    )
    return [Prose("\n\n".join(text[0].upper() + text[1:] for text in said))]
