"""The section on recommenders that were not trained here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cnsdiff.display.tables import Column, Table
from cnsdiff.display.wording import metric_title
from cnsdiff.report.audit_limits import titles_by_text
from cnsdiff.report.audit_rows import LOSS, cell, difference_cell
from cnsdiff.report.document import Block, Prose, verbatim


def externals(result: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Each with the shift that it was judged under, those of one name together."""
    found = [(shift, one) for shift in result["shifts"] for one in shift["outside"]]
    names = list(dict.fromkeys(one["name"] for _, one in found))
    return sorted(found, key=lambda pair: names.index(pair[1]["name"]))


def external_blocks(result: Mapping[str, Any]) -> list[Block]:
    """Warnings, numbers, words, and what the lists give away."""
    every = externals(result)
    blocks: list[Block] = []
    warned = titles_by_text((shift["title"], one["warnings"]) for shift, one in every)
    blocks += [
        Prose(f"**{verbatim(', '.join(titles))}:** {verbatim(text)}")
        for text, titles in warned.items()
    ]
    rows = []
    for shift, one in every:
        beside = one["against"]["test_ood"]["expected"]
        today = one["against"]["test_iid"]["expected"]
        rows.append(
            (
                (one["name"], f"{shift['title']} ({metric_title(one['metric'])})"),
                (
                    cell(one["iid"]),
                    cell(one["ood"]),
                    cell(one["loss"]),
                    difference_cell(today),
                    difference_cell(beside),
                ),
            )
        )
    blocks.append(
        Table(
            "Recommenders that were not trained here",
            ("recommender", "shift"),
            (
                Column("iid", "IID"),
                Column("ood", "OOD"),
                LOSS,
                Column("iid_beside", "IID, beside the chosen"),
                Column("ood_beside", "OOD, beside the chosen"),
            ),
            tuple(rows),
            (
                "The chosen is what validation chooses for the shift; † where the interval of the "
                "difference leaves 0 out.",
            ),
        )
    )
    for name in dict.fromkeys(one["name"] for _, one in every):
        own = [(shift, one) for shift, one in every if one["name"] == name]
        said = [" ".join([f"**{verbatim(name)}.**", *map(verbatim, own[0][1]["caveats"])])]
        for shift, one in own:
            parts = [one["words"], *one["notes"]]
            parts += [one["dialled"]["words"]] if one["dialled"] else []
            said.append(f"**{verbatim(shift['title'])}:** {verbatim(' '.join(parts))}")
        blocks.append(Prose("\n\n".join(said)))
    seen = [
        (
            (one["name"], shift["title"]),
            (
                cell(one["signs"]["train"]),
                cell(one["signs"]["held_out"]),
                cell(one["signs"]["ratio"]),
            ),
        )
        for shift, one in every
    ]
    blocks.append(
        Table(
            "What the lists give away",
            ("recommender", "shift"),
            (
                Column("train", "of a user's train pairs", digits=1, percent=True, signed=False),
                Column("held_out", "of the held-out pairs", digits=1, percent=True, signed=False),
                Column("ratio", "ratio", digits=2),
            ),
            tuple(seen),
            (
                "Share that is in the first 20 places of the user's list, less the share in a "
                "stranger's. A ratio near 1 says that both were learnt from; held-out pairs below "
                "0, that they were left out as known.",
            ),
        )
    )
    return blocks
