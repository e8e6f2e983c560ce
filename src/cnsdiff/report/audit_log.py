"""The section on the log that was audited, and how it was divided."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from cnsdiff.display.tables import Cell, Column, Table
from cnsdiff.display.wording import SPLIT_TITLES, metric_title
from cnsdiff.report.document import Block, Facts, Prose, verbatim


def log_blocks(result: Mapping[str, Any]) -> list[Block]:
    """The log, the methods, and the pairs of each split."""
    log, budget = result["log"], result["budget"]
    threshold = log["threshold"]
    facts = [
        ("log", log["source"]),
        ("rows", f"{log['rows']:,}"),
        ("users", f"{log['users']:,}"),
        ("items", f"{log['items']:,}"),
        *((f"{role} column", str(name)) for role, name in log["columns"].items()),
        ("positive", "every row" if threshold is None else f"ratings of {threshold:g} and more"),
        ("budget", f"{budget['words']} ({budget['used']:.0f} s used)"),
        ("metric", metric_title(result["metric"])),
        ("seed", str(result["seed"])),
        ("made by", result["created_by"]),
        ("checksum", log["checksum"][:16]),
    ]
    methods = [(one["title"], one["about"]) for one in result["methods"].values()]
    blocks: list[Block] = [Facts(facts)]
    if log["notes"]:
        blocks.append(Prose("\n\n".join(map(verbatim, log["notes"]))))
    blocks.append(Facts(methods))
    splits = [
        (
            (shift["title"],),
            tuple(
                Cell(float(shift["dataset"]["pairs"].get(name, math.nan))) for name in SPLIT_TITLES
            ),
        )
        for shift in result["shifts"]
    ]
    blocks.append(
        Table(
            "Pairs of each split",
            ("shift",),
            tuple(Column(title, title, digits=0) for title in SPLIT_TITLES.values()),
            tuple(splits),
        )
    )
    return blocks
