"""The section on what to use for each shift, with the commands that make it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cnsdiff.display.tables import Column, Table
from cnsdiff.report.audit_rows import cell, difference_cell
from cnsdiff.report.document import Block, Prose, Source, verbatim


def advice_blocks(result: Mapping[str, Any]) -> list[Block]:
    """What is recommended for each shift, in numbers, in words and as commands."""
    rows = []
    for shift in result["shifts"]:
        advice = shift["recommendation"]
        by_key = {row["key"]: row for row in shift["table"]}
        row = by_key[advice["use"]]
        rows.append(
            (
                (shift["title"], row["title"]),
                (
                    cell(row["ood"]),
                    difference_cell(advice["use_over_usual"], same=advice["use"] == shift["usual"]),
                    cell(row["iid"]),
                    difference_cell(advice["use_costs"], same=advice["use"] == advice["plain"]),
                ),
            )
        )
    columns = (
        Column("ood", "under the shift"),
        Column("brings", "more than the usual"),
        Column("iid", "today"),
        Column("costs", "beside the best today"),
    )
    blocks: list[Block] = [
        Prose(
            "Which setting is best for a shift is chosen on train and validation alone: of all "
            "methods the one with the best validation value under the objective that expects "
            "the shift. The tests had no part in the choice; they judge it, and where it shows no "
            "gain under the shift, what is best today is kept."
        ),
        Table(
            "What to use",
            ("if you expect", "use"),
            columns,
            tuple(rows),
            (
                "± half the 95% interval over users; † where the interval of a difference leaves "
                "0 out.",
            ),
        ),
    ]
    for shift in result["shifts"]:
        advice = shift["recommendation"]
        said = [f"**{verbatim(shift['title'])}.** {verbatim(advice['words'])}"]
        said += [verbatim(advice["reference_words"])] if advice["reference_words"] else []
        blocks.append(Prose("\n\n".join(said)))
        if advice["code"]:
            blocks.append(Source(f"use-{shift['name']}.py", advice["code"]))
        if advice["commands"]:
            if advice["commands_of"] != advice["title"]:
                blocks.append(Prose(f"To train {verbatim(advice['commands_of'])}:"))
            blocks.append(Source(f"train-{shift['name']}.sh", " && \\\n".join(advice["commands"])))
    return blocks
