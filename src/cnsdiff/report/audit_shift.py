"""The section of one shift: all settings, how large the shift is, and how they trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from cnsdiff.audit.judging import AS_GIVEN
from cnsdiff.display.palette import SPLITS
from cnsdiff.display.tables import Cell, Column, Table
from cnsdiff.display.wording import SPLIT_TITLES, metric_title
from cnsdiff.report.audit_rows import LOSS, best_places, cell, number, shown_rows, strokes
from cnsdiff.report.charts import chart, rows_of
from cnsdiff.report.document import Block, Figure, Prose, verbatim

_ENDED = {
    "patience": "nothing better came",
    "epochs": "all epochs done",
    "time": "the clock",
    "itself": "-",
}


def shift_blocks(result: Mapping[str, Any], shift: Mapping[str, Any]) -> list[Block]:
    """All that was found under one shift."""
    table = shift["table"]
    against = _against(result, shift)
    blocks: list[Block] = [
        Prose(
            f"{verbatim(shift['meaning'])} {verbatim(shift['size']['words'])}\n\n"
            "Set for this shift: epoch and dial "
            f"are picked on validation pairs weighed by `{verbatim(shift['anticipate'])}`."
        ),
        _test_figure(result, shift),
        against,
        _deciles_figure(shift),
        _distance_table(shift),
        Table(
            "How they trained",
            ("setting", "ended by"),
            (
                Column("validation", "validation"),
                Column("dial", "dial", digits=2),
                Column("epochs", "epochs", digits=0),
                Column("seconds", "seconds", digits=1),
            ),
            tuple(
                (
                    (row["title"], _ENDED.get(row["stopped_by"], row["stopped_by"])),
                    (
                        Cell(number(row["validation"])),
                        Cell(number(row["dial"])),
                        Cell(number(row["epochs"] or None)),
                        Cell(number(row["seconds"] or None)),
                    ),
                )
                for row in table
                if row["selection"] != AS_GIVEN
            ),
            (
                "Validation is the value of the objective that picked epoch and dial; values of "
                "different objectives do not compare.",
                "Settings of one method come from one training.",
            ),
        ),
    ]
    if shift["limits"]:
        blocks.append(Prose("\n\n".join(map(verbatim, shift["limits"]))))
    return blocks


def _against(result: Mapping[str, Any], shift: Mapping[str, Any]) -> Table:
    """All settings on both tests, those that differ from the usual recommender marked."""
    name = metric_title(result["metric"])
    rows = []
    places = {key: best_places([r[key][0] for r in shift["table"]]) for key in ("iid", "ood")}
    for at, row in enumerate(shift["table"]):
        differs = {
            test: row["against_usual"].get(test, {}).get("p_holm", 1.0) < 0.05
            for test in ("test_iid", "test_ood")
        }
        rows.append(
            (
                (row["title"],),
                (
                    cell(row["iid"], places["iid"][at], differs["test_iid"]),
                    cell(row["ood"], places["ood"][at], differs["test_ood"]),
                    cell(row["loss"]),
                ),
            )
        )
    usual = next((r["title"] for r in shift["table"] if r["key"] == shift["usual"]), "")
    users = shift["n_users"]
    return Table(
        "All settings",
        ("setting",),
        (Column("iid", f"IID {name}"), Column("ood", f"OOD {name}"), LOSS),
        tuple(rows),
        (
            f"{users['test_iid']:,} users of the IID test and {users['test_ood']:,} of the OOD "
            "test; ± half the 95% interval over them.",
            f"† differs from {usual} at p < 0.05 (paired bootstrap over users, Holm's correction).",
        ),
    )


def _test_figure(result: Mapping[str, Any], shift: Mapping[str, Any]) -> Figure:
    rows = shown_rows(shift)
    labels = [row["title"] for row in rows]
    figure = chart(x=metric_title(result["metric"]), height=140 + 42 * len(labels))
    points = []
    for key, split, title in (
        ("iid_matched", "test_iid", "today (IID, matched)"),
        ("ood", "test_ood", "under the shift (OOD)"),
    ):
        style = SPLITS[split]
        values = [[number(x) for x in row[key]] for row in rows]
        points += [
            {"setting": label, "test": title, "value": v, "low": low, "high": high}
            for label, (v, low, high) in zip(labels, values, strict=True)
        ]
        figure.add_scatter(
            x=[v for v, _, _ in values],
            y=labels,
            mode="markers",
            name=title,
            marker=style.marker,
            error_x=strokes(values, style.colour),
        )
    figure.update_xaxes(rangemode="tozero")
    rows_of(figure, labels)
    return Figure(
        f"{shift['title']}: today and under the shift",
        "The further a method's two marks lie apart, the more it loses; strokes are 95% "
        "intervals over users.",
        figure,
        pl.DataFrame(points),
    )


def _deciles_figure(shift: Mapping[str, Any]) -> Figure:
    figure = chart(x="tenth of the items, most popular first", y="share of the pairs")
    points = []
    for split in ("train", "test_iid", "test_ood"):
        title = SPLIT_TITLES.get(split, split)
        shares = shift["size"]["splits"][split]["deciles"]
        tenths = [str(at + 1) for at in range(len(shares))]
        points += [
            {"split": title, "tenth": tenth, "share": share}
            for tenth, share in zip(tenths, shares, strict=True)
        ]
        figure.add_bar(x=tenths, y=shares, name=title, marker={"color": SPLITS[split].colour})
    figure.update_xaxes(type="category")
    figure.update_yaxes(tickformat=".0%")
    return Figure(
        f"{shift['title']}: popularity of the items",
        "Share of each split's pairs on each tenth of the items by popularity in train.",
        figure,
        pl.DataFrame(points),
    )


def _distance_table(shift: Mapping[str, Any]) -> Table:
    splits = shift["size"]["splits"]
    rows = []
    for split in ("valid", "test_iid", "test_ood"):
        for axis in ("items", "users", "time"):
            found = splits[split].get(axis)
            if found:
                cells = (Cell(found["js"]), Cell(number(found["chance"])))
                rows.append(((SPLIT_TITLES[split], axis), cells))
    return Table(
        "How large the shift is",
        ("split", "of its"),
        (
            Column("js", "distance from train", digits=3),
            Column("chance", "by chance alone", digits=3),
        ),
        tuple(rows),
        (
            "Jensen–Shannon divergence in nats, at most 0.693; only what lies beyond chance is "
            "shift.",
        ),
    )
