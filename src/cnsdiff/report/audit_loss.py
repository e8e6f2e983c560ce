"""The section on losses: what each method loses under each shift."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from cnsdiff.display.palette import method_styles
from cnsdiff.display.tables import Column, Table
from cnsdiff.display.wording import metric_title
from cnsdiff.evaluation.results import protocol
from cnsdiff.report.audit_rows import LOSS, best_places, cell, plain_rows, shown_rows, strokes
from cnsdiff.report.charts import chart
from cnsdiff.report.document import Block, Figure, Prose


def short_table(result: Mapping[str, Any]) -> Table:
    """Every shift on few lines: each method as usually read, and those that expect the shift."""
    name = metric_title(result["metric"])
    rows = []
    for shift in result["shifts"]:
        shown = shown_rows(shift)
        places = {key: best_places([row[key][0] for row in shown]) for key in ("iid", "ood")}
        for at, row in enumerate(shown):
            cells = (
                cell(row["iid"], places["iid"][at]),
                cell(row["ood"], places["ood"][at]),
                cell(row["loss"]),
            )
            rows.append(((shift["title"], row["title"]), cells))
    return Table(
        f"{name} today (IID) and under each shift (OOD)",
        ("shift", "setting"),
        (Column("iid", "IID"), Column("ood", "OOD"), LOSS),
        tuple(rows),
        (protocol(), "± half the 95% interval over users"),
    )


def loss_blocks(result: Mapping[str, Any]) -> list[Block]:
    """What each loses: a figure, and the numbers."""
    rows, labels = [], []
    for shift in result["shifts"]:
        for row in shown_rows(shift):
            rows.append(row)
            labels.append(shift["title"])
    if not rows:
        return [Prose("Nothing was measured.")]
    columns = (
        Column("iid", "IID"),
        Column("matched", "IID, matched"),
        Column("ood", "OOD"),
        LOSS,
    )
    table = Table(
        f"{metric_title(result['metric'])} today and under each shift",
        ("shift", "setting"),
        columns,
        tuple(
            (
                (label, row["title"]),
                (
                    cell(row["iid"]),
                    cell(row["iid_matched"]),
                    cell(row["ood"]),
                    cell(row["loss"]),
                ),
            )
            for label, row in zip(labels, rows, strict=True)
        ),
        (
            "± half the 95% interval over users.",
            "Loss is 1 − OOD / matched IID: a user with more items to find is easier to please, so "
            "IID accuracy is read as if its users had as many to find as those of the OOD test.",
        ),
    )
    return [
        _loss_figure(result),
        Prose(
            "IID is today's traffic: pairs held out at random. OOD is the same model on pairs "
            "that differ as the shift says. A loss whose interval holds 0 is none that this log "
            "can show."
        ),
        table,
    ]


def _loss_figure(result: Mapping[str, Any]) -> Figure:
    shifts = result["shifts"]
    figure = chart(x="share of accuracy lost", height=120 + 110 * len(shifts))
    points = []
    methods = dict.fromkeys(r["method"] for s in result["shifts"] for r in plain_rows(s))
    styles = method_styles(methods)
    titles = {r["method"]: r["title"] for s in result["shifts"] for r in plain_rows(s)}
    lanes = len(methods)
    for lane, method in enumerate(methods):
        estimates, ys = [], []
        for at, shift in enumerate(shifts):
            row = next((r for r in plain_rows(shift) if r["method"] == method), None)
            if row is None or None in row["loss"]:
                continue
            value, low, high = row["loss"]
            estimates.append(row["loss"])
            ys.append(at + (lane - (lanes - 1) / 2) * 0.8 / max(lanes, 1))
            points.append(
                {"shift": shift["title"], "method": titles[method]}
                | {"loss": value, "low": low, "high": high}
            )
        figure.add_scatter(
            x=[value for value, _, _ in estimates],
            y=ys,
            mode="markers",
            name=titles[method],
            marker=styles[method].marker,
            error_x=strokes(estimates, styles[method].colour),
            hovertemplate="%{x:.0%}<extra>%{fullData.name}</extra>",
        )
    figure.update_xaxes(tickformat=".0%", zeroline=True)
    figure.update_yaxes(
        tickvals=list(range(len(shifts))),
        ticktext=[shift["title"] for shift in shifts],
        range=[len(shifts) - 0.5, -0.5],
        showgrid=False,
    )
    return Figure(
        "What each loses",
        "Each method as usually read, no shift expected; strokes are 95% intervals over users. "
        "Left is better.",
        figure,
        pl.DataFrame(points),
    )
