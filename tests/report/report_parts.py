"""What the tests of reports share: a document of everything, and where the browser is."""

from __future__ import annotations

import plotly.graph_objects as go
import polars as pl

from cnsdiff.display.tables import Cell, Column, Table
from cnsdiff.report.charts import SPLITS
from cnsdiff.report.document import Document, Facts, Figure, Prose, Section, Source

#: An id as a hostile log could hold it.
HOSTILE = "<script>alert(1)</script>"


def bars(title: str, *, small: bool = False) -> Figure:
    figure = go.Figure()
    for at, (name, style) in enumerate(SPLITS.items()):
        figure.add_bar(x=["a", HOSTILE], y=[at + 1, 2], name=name, marker={"color": style.colour})
    data = pl.DataFrame({"item": ["a", HOSTILE], "value": [1.0, 2.0]})
    return Figure(title, "What the bars are.", figure, data, small=small)


def full_document() -> Document:
    """One of everything a report is made of, with what a user's file could hold."""
    lines = go.Figure()
    lines.add_scatter(
        x=[1, 2, 3], y=[0.1, 0.3, 0.2], line=SPLITS["test_iid"].line, name=f"line {HOSTILE}"
    )
    lines.update_layout(xaxis={"title": {"text": "epoch"}})
    table = Table(
        "Accuracy of a few methods on the tests",
        ("group", "method"),
        tuple(Column(f"c{at}", f"column {at} of many") for at in range(9)),
        (
            (("sampler", "dns"), (Cell(0.1234567, 0.01, 1, True), *[Cell(0.5)] * 8)),
            (("sampler", HOSTILE), (Cell(0.05, None, 2), *[Cell(float("nan"))] * 8)),
            (("reference", "ease"), (Cell(0.04, float("nan")), *[Cell(0.1)] * 8)),
        ),
        (f"a note on {HOSTILE}",),
    )
    return Document(
        f"A run on {HOSTILE}",
        f"Keeps 47% of its NDCG@20, says {HOSTILE}.",
        (
            Section(
                "Overview",
                (
                    Prose(f"**Bold** and `code <b>`, [to the settings](#Settings). {HOSTILE}"),
                    bars("First of two", small=True),
                    bars("Second of two", small=True),
                    table,
                ),
            ),
            Section(
                "Training",
                (
                    Figure(
                        "Loss", "Falls.", lines, pl.DataFrame({"epoch": [1, 2], "loss": [0.3, 0.1]})
                    ),
                ),
            ),
            Section(
                "Settings",
                (
                    Facts((("user", HOSTILE), ("torch", "2.5"))),
                    Source("config.yaml", f"name: {HOSTILE}\nlong: {'x' * 300}\n"),
                ),
            ),
        ),
        summary="A **summary** of two paragraphs.\n\nThis is the second.",
    )
