"""What an audit found under one shift, and of recommenders that were not trained here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import polars as pl

from cnsdiff.audit.judging import AS_GIVEN, from_list
from cnsdiff.audit.methods import FORMER, METHODS
from cnsdiff.benchmark.grid import PLAIN
from cnsdiff.display.palette import SPLITS
from cnsdiff.display.tables import Cell, Column, Table
from cnsdiff.display.wording import SPLIT_TITLES, metric_title
from cnsdiff.report.charts import chart, rows_of, strokes
from cnsdiff.report.document import Block, Figure, Prose, verbatim

LOSS = Column("loss", "loss", digits=0, percent=True, signed=False)
HALF_WIDTH = "± half the 95% interval over users"
_ENDED = {
    "patience": "nothing better came",
    "epochs": "all epochs done",
    "time": "the clock",
    "itself": "-",
}

#: A part of ``audit.json``, as :mod:`cnsdiff.audit.record` describes it.
Part = Mapping[str, Any]


# --- Rows and cells


def plain_rows(shift: Part) -> list[Part]:
    """The row of each method as it is read when no shift is expected."""
    first: dict[str, Part] = {}
    for row in shift["table"]:
        method = METHODS.get(FORMER.get(row["method"], row["method"]))
        if row["selection"] in (PLAIN if method is None else method.plain, AS_GIVEN):
            first.setdefault(row["method"], row)
    return list(first.values())


def compared_rows(shift: Part) -> list[Part]:
    """What is compared at a glance: each method as usually read, and the best that expect it."""
    advice = shift["recommendation"]
    keys = {row["key"] for row in plain_rows(shift)}
    keys |= {advice[key] for key in ("use", "plain", "expected", "trained", "reference")}
    return [row for row in shift["table"] if row["key"] in keys]


def cell(estimate: Sequence[float | None], place: int | None = None, differs: bool = False) -> Cell:
    """An estimate as audit.json has it: the value with half its interval."""
    interval = from_list(estimate)
    return Cell(interval.value, interval.half_width, place, differs)


def difference_cell(found: Part) -> Cell:
    return cell(found["difference"], differs=found["sign"] != 0)


def column_of(rows: Sequence[Part], key: str, differs: Sequence[bool] = ()) -> list[Cell]:
    """An estimate of each row, the best marked."""
    best = max((row[key][0] for row in rows if row[key][0] is not None), default=None)
    marks = differs or [False] * len(rows)
    return [
        cell(row[key], 1 if row[key][0] is not None and row[key][0] == best else None, mark)
        for row, mark in zip(rows, marks, strict=True)
    ]


def by_text(said: Iterable[tuple[str, Sequence[str]]]) -> dict[str, list[str]]:
    """Each sentence once, with the titles of the shifts that it is said of."""
    titles: dict[str, list[str]] = {}
    for title, texts in said:
        for text in texts:
            titles.setdefault(text, []).append(title)
    return titles


# --- One shift


def shift_blocks(result: Part, shift: Part) -> list[Block]:
    """All settings, how large the shift is, and how they trained."""
    blocks: list[Block] = [
        Prose(
            f"{verbatim(shift['meaning'])} {verbatim(shift['size']['words'])}\n\n"
            "Set for this shift: epoch and dial "
            f"are picked on validation pairs weighed by `{verbatim(shift['anticipate'])}`."
        ),
        _tests_figure(result, shift),
        _settings_table(result, shift),
        _deciles_figure(shift),
        _distance_table(shift),
        Table.of(
            "How they trained",
            ["setting", "ended by"],
            [
                Column("validation", "validation"),
                Column("dial", "dial", digits=2),
                Column("epochs", "epochs", digits=0),
                Column("seconds", "seconds", digits=1),
            ],
            [
                (
                    [row["title"], _ENDED.get(row["stopped_by"], row["stopped_by"])],
                    [row["validation"], row["dial"], row["epochs"] or None, row["seconds"] or None],
                )
                for row in shift["table"]
                if row["selection"] != AS_GIVEN
            ],
            "Validation is the value of the objective that picked epoch and dial; values of "
            "different objectives do not compare.",
            "Settings of one method come from one training.",
        ),
    ]
    limits = "\n\n".join(map(verbatim, shift["limits"]))
    return [*blocks, *([Prose(limits)] if limits else [])]


def _settings_table(result: Part, shift: Part) -> Table:
    """All settings on both tests, those that differ from the usual recommender marked."""
    table, name, users = shift["table"], metric_title(result["metric"]), shift["n_users"]

    def column(key: str, test: str) -> list[Cell]:
        differs = [row["against_usual"].get(test, {}).get("p_holm", 1.0) < 0.05 for row in table]
        return column_of(table, key, differs)

    usual = next((row["title"] for row in table if row["key"] == shift["usual"]), "")
    columns = column("iid", "test_iid"), column("ood", "test_ood")
    return Table.of(
        "All settings",
        ["setting"],
        [Column("iid", f"IID {name}"), Column("ood", f"OOD {name}"), LOSS],
        [
            ([row["title"]], [iid, ood, cell(row["loss"])])
            for row, iid, ood in zip(table, *columns, strict=True)
        ],
        f"{users['test_iid']:,} users of the IID test and {users['test_ood']:,} of the OOD test; "
        "± half the 95% interval over them.",
        f"† differs from {usual} at p < 0.05 (paired bootstrap over users, Holm's correction).",
    )


def _tests_figure(result: Part, shift: Part) -> Figure:
    rows = compared_rows(shift)
    labels = [row["title"] for row in rows]
    figure = chart(x=metric_title(result["metric"]), height=140 + 42 * len(labels))
    points = []
    for key, split, title in (
        ("iid_matched", "test_iid", "today (IID, matched)"),
        ("ood", "test_ood", "under the shift (OOD)"),
    ):
        intervals = [from_list(row[key]) for row in rows]
        estimates = [(each.value, each.low, each.high) for each in intervals]
        figure.add_scatter(
            x=[value for value, _, _ in estimates],
            y=labels,
            mode="markers",
            name=title,
            marker=SPLITS[split].marker,
            error_x=strokes(estimates, color=SPLITS[split].colour),
        )
        points += [
            {"setting": label, "test": title, "value": value, "low": low, "high": high}
            for label, (value, low, high) in zip(labels, estimates, strict=True)
        ]
    figure.update_xaxes(rangemode="tozero")
    rows_of(figure, labels)
    return Figure(
        f"{shift['title']}: today and under the shift",
        "The further a method's two marks lie apart, the more it loses; strokes are 95% "
        "intervals over users.",
        figure,
        pl.DataFrame(points),
    )


def _deciles_figure(shift: Part) -> Figure:
    figure = chart(x="tenth of the items, most popular first", y="share of the pairs")
    points = []
    for split in ("train", "test_iid", "test_ood"):
        title, shares = SPLIT_TITLES[split], shift["size"]["splits"][split]["deciles"]
        tenths = [str(at + 1) for at in range(len(shares))]
        figure.add_bar(x=tenths, y=shares, name=title, marker={"color": SPLITS[split].colour})
        points += [
            {"split": title, "tenth": tenth, "share": share}
            for tenth, share in zip(tenths, shares, strict=True)
        ]
    figure.update_xaxes(type="category")
    figure.update_yaxes(tickformat=".0%")
    return Figure(
        f"{shift['title']}: popularity of the items",
        "Share of each split's pairs on each tenth of the items by popularity in train.",
        figure,
        pl.DataFrame(points),
    )


def _distance_table(shift: Part) -> Table:
    splits = shift["size"]["splits"]
    return Table.of(
        "How large the shift is",
        ["split", "of its"],
        [
            Column("js", "distance from train", digits=3),
            Column("chance", "by chance alone", digits=3),
        ],
        [
            ([SPLIT_TITLES[split], axis], [distance["js"], distance["chance"]])
            for split in ("valid", "test_iid", "test_ood")
            for axis in ("items", "users", "time")
            if (distance := splits[split].get(axis))
        ],
        "Jensen–Shannon divergence in nats, at most 0.693; only what lies beyond chance is shift.",
    )


# --- Recommenders that were not trained here


def outside_of(result: Part) -> list[tuple[Part, Part]]:
    """Each with the shift that it was judged under, those of one name together."""
    pairs = [(shift, mine) for shift in result["shifts"] for mine in shift["outside"]]
    names = list(dict.fromkeys(mine["name"] for _, mine in pairs))
    return sorted(pairs, key=lambda pair: names.index(pair[1]["name"]))


def outside_blocks(outside: Sequence[tuple[Part, Part]]) -> list[Block]:
    """Warnings, numbers, words, and what the lists give away."""
    warnings = by_text((shift["title"], mine["warnings"]) for shift, mine in outside)
    blocks: list[Block] = [
        Prose(f"**{verbatim(', '.join(titles))}:** {verbatim(text)}")
        for text, titles in warnings.items()
    ]
    rows = []
    for shift, mine in outside:
        beside = [mine["against"][test]["expected"] for test in ("test_iid", "test_ood")]
        cells = [cell(mine[key]) for key in ("iid", "ood", "loss")]
        judged_by = f"{shift['title']} ({metric_title(mine['metric'])})"
        rows.append(([mine["name"], judged_by], [*cells, *map(difference_cell, beside)]))
    blocks.append(
        Table.of(
            "Recommenders that were not trained here",
            ["recommender", "shift"],
            [
                Column("iid", "IID"),
                Column("ood", "OOD"),
                LOSS,
                Column("iid_beside", "IID, beside the chosen"),
                Column("ood_beside", "OOD, beside the chosen"),
            ],
            rows,
            "The chosen is what validation chooses for the shift; † where the interval of the "
            "difference leaves 0 out.",
        )
    )
    for name in dict.fromkeys(mine["name"] for _, mine in outside):
        own = [(shift, mine) for shift, mine in outside if mine["name"] == name]
        paragraphs = [" ".join([f"**{verbatim(name)}.**", *map(verbatim, own[0][1]["caveats"])])]
        for shift, mine in own:
            words = [mine["words"], *mine["notes"]]
            words += [mine["dialled"]["words"]] if mine["dialled"] else []
            paragraphs.append(f"**{verbatim(shift['title'])}:** {verbatim(' '.join(words))}")
        blocks.append(Prose("\n\n".join(paragraphs)))
    share = partial(Column, digits=1, percent=True, signed=False)
    signs = Table.of(
        "What the lists give away",
        ["recommender", "shift"],
        [
            share("train", "of a user's train pairs"),
            share("held_out", "of the held-out pairs"),
            Column("ratio", "ratio", digits=2),
        ],
        [
            (
                [mine["name"], shift["title"]],
                [cell(mine["signs"][key]) for key in ("train", "held_out", "ratio")],
            )
            for shift, mine in outside
        ],
        "Share that is in the first 20 places of the user's list, less the share in a stranger's. "
        "A ratio near 1 says that both were learnt from; held-out pairs below 0, that they were "
        "left out as known.",
    )
    return [*blocks, signs]
