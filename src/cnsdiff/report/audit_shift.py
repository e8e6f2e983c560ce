"""The report of an audit, under one shift and of recommenders that were not trained here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial

import polars as pl

from cnsdiff.audit.judging import AS_GIVEN
from cnsdiff.audit.record import (
    AuditRecord,
    DifferenceRecord,
    OutsideRecord,
    SettingRecord,
    ShiftRecord,
    Test,
)
from cnsdiff.audit.training import FORMER, METHODS
from cnsdiff.benchmark.grid import PLAIN, REHEARSAL
from cnsdiff.display.tables import HALF_WIDTH, Cell, Column, Table
from cnsdiff.display.wording import SPLIT_TITLES, metric_title
from cnsdiff.evaluation.significance import Interval
from cnsdiff.report.charts import SPLITS, chart, error_bars, rows_of
from cnsdiff.report.document import Block, Figure, Prose, verbatim

LOST = Column("lost", "lost", digits=0, percent=True, signed=False)
_ENDED = {
    "patience": "nothing better came",
    "epochs": "all epochs done",
    "time": "the clock",
    "itself": "-",
}


# --- Rows and cells


def plain_rows(shift: ShiftRecord) -> list[SettingRecord]:
    """The row of each method as it is read when no shift is expected."""
    first: dict[str, SettingRecord] = {}
    for row in shift.table:
        method = METHODS.get(FORMER.get(row.method, row.method))
        if row.selection in (PLAIN if method is None else method.plain, AS_GIVEN):
            first.setdefault(row.method, row)
    return list(first.values())


def compared_rows(shift: ShiftRecord) -> list[SettingRecord]:
    """The methods compared at a glance: each as usually read, and the best that expect it."""
    advice = shift.recommendation
    keys = {row.key for row in plain_rows(shift)}
    keys |= {getattr(advice, key) for key in ("use", "plain", "expected", "trained", "reference")}
    return [row for row in shift.table if row.key in keys]


def cell(interval: Interval, place: int | None = None, differs: bool = False) -> Cell:
    """The value with half its interval."""
    return Cell(interval.value, interval.half_width, place, differs)


def difference_cell(difference: DifferenceRecord) -> Cell:
    return cell(difference.difference, differs=difference.sign != 0)


def column_of(rows: Sequence[SettingRecord], key: str, differs: Sequence[bool] = ()) -> list[Cell]:
    """An estimate of each row, the best marked."""
    estimates: list[Interval] = [getattr(row, key) for row in rows]
    best = max((each.value for each in estimates if math.isfinite(each.value)), default=None)
    marks = differs or [False] * len(rows)
    return [
        cell(estimate, 1 if estimate.value == best else None, mark)
        for estimate, mark in zip(estimates, marks, strict=True)
    ]


def by_text(said: Iterable[tuple[str, Sequence[str]]]) -> dict[str, list[str]]:
    """Each sentence once, with the titles of the shifts that it is said of."""
    titles: dict[str, list[str]] = {}
    for title, texts in said:
        for text in dict.fromkeys(texts):
            titles.setdefault(text, []).append(title)
    return titles


# --- One shift


def _set_for(shift: ShiftRecord) -> str:
    if shift.anticipate == REHEARSAL:
        return (
            "epoch and environment are picked on the latest fifth of train and valid, after the "
            "rest has trained; then all of both is learnt"
        )
    objective = verbatim(shift.anticipate)
    return f"epoch and dial are picked on validation pairs weighed by `{objective}`"


def shift_blocks(result: AuditRecord, shift: ShiftRecord) -> list[Block]:
    """All settings, how large the shift is, and how they trained."""
    blocks: list[Block] = [
        Prose(
            f"{verbatim(shift.meaning)} {verbatim(shift.size.words)}\n\n"
            f"Set for this shift: {_set_for(shift)}."
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
                    [row.title, _ENDED.get(row.stopped_by, row.stopped_by)],
                    [row.validation, row.dial, row.epochs or None, row.seconds or None],
                )
                for row in shift.table
                if row.selection != AS_GIVEN
            ],
            "Validation is the value of the objective that picked epoch and dial; values of "
            "different objectives do not compare.",
            "Settings of one method come from one training, but those set by a rehearsal.",
        ),
    ]
    limits = "\n\n".join(map(verbatim, shift.limits))
    return [*blocks, *([Prose(limits)] if limits else [])]


def _settings_table(result: AuditRecord, shift: ShiftRecord) -> Table:
    """All settings on both tests, those that differ from the usual recommender marked."""
    table, name, users = shift.table, metric_title(result.metric), shift.n_users

    def column(key: str, test: Test) -> list[Cell]:
        against = [row.against_usual.get(test) for row in table]
        differs = [each is not None and each.p_holm < 0.05 for each in against]
        return column_of(table, key, differs)

    usual = next((row.title for row in table if row.key == shift.usual), "")
    columns = column("iid", "test_iid"), column("ood", "test_ood")
    return Table.of(
        "All settings",
        ["setting"],
        [Column("iid", f"IID {name}"), Column("ood", f"OOD {name}"), LOST],
        [
            ([row.title], [iid, ood, cell(row.lost_matched)])
            for row, iid, ood in zip(table, *columns, strict=True)
        ],
        f"{users.test_iid:,} users of the IID test and {users.test_ood:,} of the OOD test; "
        f"{HALF_WIDTH}.",
        f"† differs from {usual} at p < 0.05 (paired bootstrap over users, Holm's correction).",
    )


def _tests_figure(result: AuditRecord, shift: ShiftRecord) -> Figure:
    rows = compared_rows(shift)
    labels = [row.title for row in rows]
    figure = chart(x=metric_title(result.metric), height=140 + 42 * len(labels))
    points = []
    for key, split, title in (
        ("iid_matched", "test_iid", "today (IID, matched)"),
        ("ood", "test_ood", "under the shift (OOD)"),
    ):
        estimates: list[Interval] = [getattr(row, key) for row in rows]
        figure.add_scatter(
            x=[each.value for each in estimates],
            y=labels,
            mode="markers",
            name=title,
            marker=SPLITS[split].marker,
            error_x=error_bars(estimates, color=SPLITS[split].colour),
        )
        points += [
            {
                "setting": label,
                "test": title,
                "value": each.value,
                "low": each.low,
                "high": each.high,
            }
            for label, each in zip(labels, estimates, strict=True)
        ]
    figure.update_xaxes(rangemode="tozero")
    rows_of(figure, labels)
    return Figure(
        f"{shift.title}: today and under the shift",
        "The further a method's two marks lie apart, the more it loses; strokes are 95% "
        "intervals over users.",
        figure,
        pl.DataFrame(points),
    )


def _deciles_figure(shift: ShiftRecord) -> Figure:
    figure = chart(x="tenth of the items, most popular first", y="share of the pairs")
    points = []
    for split in ("train", "test_iid", "test_ood"):
        title, shares = SPLIT_TITLES[split], shift.size.splits[split].deciles
        tenths = [str(at + 1) for at in range(len(shares))]
        figure.add_bar(x=tenths, y=shares, name=title, marker={"color": SPLITS[split].colour})
        points += [
            {"split": title, "tenth": tenth, "share": share}
            for tenth, share in zip(tenths, shares, strict=True)
        ]
    figure.update_xaxes(type="category")
    figure.update_yaxes(tickformat=".0%")
    return Figure(
        f"{shift.title}: popularity of the items",
        "Share of each split's pairs on each tenth of the items by popularity in train.",
        figure,
        pl.DataFrame(points),
    )


def _distance_table(shift: ShiftRecord) -> Table:
    splits = shift.size.splits
    return Table.of(
        "How large the shift is",
        ["split", "of its"],
        [
            Column("js", "distance from train", digits=3),
            Column("chance", "by chance alone", digits=3),
        ],
        [
            ([SPLIT_TITLES[split], axis], [distance.js, distance.chance])
            for split in ("valid", "test_iid", "test_ood")
            for axis in ("items", "users", "time")
            if (distance := getattr(splits[split], axis))
        ],
        "Jensen–Shannon divergence in nats, at most 0.693; only what lies beyond chance is shift.",
    )


# --- Recommenders that were not trained here


def outside_of(result: AuditRecord) -> list[tuple[ShiftRecord, OutsideRecord]]:
    """Each with the shift that it was judged under, those of one name together."""
    pairs = [(shift, mine) for shift in result.shifts for mine in shift.outside]
    names = list(dict.fromkeys(mine.name for _, mine in pairs))
    return sorted(pairs, key=lambda pair: names.index(pair[1].name))


def outside_blocks(outside: Sequence[tuple[ShiftRecord, OutsideRecord]]) -> list[Block]:
    """Warnings, numbers, words, and what the lists give away."""
    warnings = by_text((shift.title, mine.warnings) for shift, mine in outside)
    blocks: list[Block] = [
        Prose(f"**{verbatim(', '.join(titles))}:** {verbatim(text)}")
        for text, titles in warnings.items()
    ]
    rows = []
    for shift, mine in outside:
        beside = [mine.against.test_iid.expected, mine.against.test_ood.expected]
        cells = [cell(getattr(mine, key)) for key in ("iid", "ood", "lost_matched")]
        judged_by = f"{shift.title} ({metric_title(mine.metric)})"
        rows.append(([mine.name, judged_by], [*cells, *map(difference_cell, beside)]))
    blocks.append(
        Table.of(
            "Recommenders that were not trained here",
            ["recommender", "shift"],
            [
                Column("iid", "IID"),
                Column("ood", "OOD"),
                LOST,
                Column("iid_beside", "IID, beside the chosen"),
                Column("ood_beside", "OOD, beside the chosen"),
            ],
            rows,
            "The chosen is what validation chooses for the shift; † where the interval of the "
            "difference leaves 0 out.",
        )
    )
    for name in dict.fromkeys(mine.name for _, mine in outside):
        own = [(shift, mine) for shift, mine in outside if mine.name == name]
        paragraphs = [" ".join([f"**{verbatim(name)}.**", *map(verbatim, own[0][1].caveats)])]
        for shift, mine in own:
            words = [mine.words, *mine.notes]
            words += [mine.dialled.words] if mine.dialled else []
            paragraphs.append(f"**{verbatim(shift.title)}:** {verbatim(' '.join(words))}")
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
                [mine.name, shift.title],
                [cell(getattr(mine.signs, key)) for key in ("train", "held_out", "ratio")],
            )
            for shift, mine in outside
        ],
        "Share that is in the first 20 places of the user's list, less the share in a stranger's. "
        "A ratio near 1 says that both were learnt from; held-out pairs below 0, that they were "
        "left out as known.",
    )
    return [*blocks, signs]
