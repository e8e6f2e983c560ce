"""The report of an audit: what is lost under which shift, and what to use instead."""

from __future__ import annotations

import math
from pathlib import Path

import polars as pl

from cnsdiff.audit.record import NOT_COMPARABLE, AuditRecord, read_audit
from cnsdiff.display.tables import HALF_WIDTH, Column, Table
from cnsdiff.display.wording import SPLIT_TITLES, metric_title
from cnsdiff.evaluation.protocol import protocol
from cnsdiff.report.audit_shift import (
    LOST,
    by_text,
    cell,
    column_of,
    compared_rows,
    difference_cell,
    outside_blocks,
    outside_of,
    plain_rows,
    shift_blocks,
)
from cnsdiff.report.charts import chart, error_bars, method_styles
from cnsdiff.report.document import (
    Block,
    Document,
    Facts,
    Figure,
    Prose,
    Section,
    Source,
    verbatim,
)


def audit_document(path: str | Path) -> Document:
    """The report of an audit's directory.

    Raises
    ------
    RunError
        It holds no finished audit, one of another version, or a damaged one.
    """
    result = read_audit(Path(path))
    outside = outside_of(result)
    return Document(
        title=f"Audit of {result.name}",
        verdict=result.verdict,
        summary=_summary(result),
        sections=[
            Section("Loss", _loss_blocks(result)),
            Section("What to use", _advice_blocks(result)),
            *(Section(shift.title, shift_blocks(result, shift)) for shift in result.shifts),
            *([Section("Your own", outside_blocks(outside))] if outside else []),
            Section("Limits", _limit_blocks(result)),
            Section("Log", _log_blocks(result)),
        ],
    )


def _summary(result: AuditRecord) -> str:
    shifts = result.shifts
    sentences = list(map(verbatim, result.more_verdicts))
    sentences += [
        f"**{verbatim(shift.title)}:** {verbatim(shift.recommendation.words)}" for shift in shifts
    ]
    cut = [
        shift.title
        for shift in shifts
        if any(row.stopped_by == "time" for row in shift.table) or shift.unfinished
    ]
    if cut:
        where = "" if len(cut) == len(shifts) else f" under {verbatim(' and '.join(cut))}"
        sentences.append(
            f"**Budget:** {result.budget.words} ended trainings early{where}; see "
            "[Limits](#limits)."
        )
    warnings = [text for _, mine in outside_of(result) for text in mine.warnings]
    if warnings:
        sentences.append(f"**Caution:** {verbatim(warnings[0])}")
    return "\n\n".join(sentences)


# --- What each method loses


def short_table(result: AuditRecord) -> Table:
    """Every shift on few lines: each method as usually read, and those that expect the shift."""
    rows = []
    for shift in result.shifts:
        shown = compared_rows(shift)
        columns = [column_of(shown, "iid"), column_of(shown, "ood")]
        for row, iid, ood in zip(shown, *columns, strict=True):
            rows.append(([shift.title, row.title], [iid, ood, cell(row.lost_matched)]))
    return Table.of(
        f"{metric_title(result.metric)} today (IID) and under each shift (OOD)",
        ["shift", "setting"],
        [Column("iid", "IID"), Column("ood", "OOD"), LOST],
        rows,
        protocol(),
        HALF_WIDTH,
    )


def _loss_blocks(result: AuditRecord) -> list[Block]:
    rows = [
        (
            [shift.title, row.title],
            [cell(getattr(row, key)) for key in ("iid", "iid_matched", "ood", "lost_matched")],
        )
        for shift in result.shifts
        for row in compared_rows(shift)
    ]
    if not rows:
        return [Prose("Nothing was measured.")]
    table = Table.of(
        f"{metric_title(result.metric)} today and under each shift",
        ["shift", "setting"],
        [Column("iid", "IID"), Column("matched", "IID, matched"), Column("ood", "OOD"), LOST],
        rows,
        f"{HALF_WIDTH}.",
        "Lost is 1 − OOD / matched IID: a user with more items to find is easier to please, so "
        "IID accuracy is read as if its users had as many to find as those of the OOD test.",
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


def _loss_figure(result: AuditRecord) -> Figure:
    shifts = result.shifts
    figure = chart(x="share of accuracy lost", height=120 + 110 * len(shifts))
    # A lane for each method within each shift.
    plain = [{row.method: row for row in plain_rows(shift)} for shift in shifts]
    titles = {method: row.title for rows in plain for method, row in rows.items()}
    styles = method_styles(titles)
    points = []
    for lane, (method, title) in enumerate(titles.items()):
        measured = [
            (at, rows[method].lost_matched)
            for at, rows in enumerate(plain)
            if method in rows and math.isfinite(rows[method].lost_matched.low)
        ]
        figure.add_scatter(
            x=[lost.value for _, lost in measured],
            y=[at + (lane - (len(titles) - 1) / 2) * 0.8 / len(titles) for at, _ in measured],
            mode="markers",
            name=title,
            marker=styles[method].marker,
            error_x=error_bars([lost for _, lost in measured], color=styles[method].colour),
            hovertemplate="%{x:.0%}<extra>%{fullData.name}</extra>",
        )
        points += [
            {
                "shift": shifts[at].title,
                "method": title,
                "lost": lost.value,
                "low": lost.low,
                "high": lost.high,
            }
            for at, lost in measured
        ]
    figure.update_xaxes(tickformat=".0%", zeroline=True)
    figure.update_yaxes(
        tickvals=list(range(len(shifts))),
        ticktext=[shift.title for shift in shifts],
        range=[len(shifts) - 0.5, -0.5],
        showgrid=False,
    )
    # An empty row says why.
    empty = [
        f"{shift.title} has no marks: "
        + (NOT_COMPARABLE if NOT_COMPARABLE in shift.limits else "its losses are unknown.")
        for shift in shifts
        if not any(point["shift"] == shift.title for point in points)
    ]
    about = (
        "Each method as usually read, no shift expected; strokes are 95% intervals over users. "
        "Left is better."
    )
    return Figure(
        "What each loses",
        " ".join([about, *empty]),
        figure,
        pl.DataFrame(points),
    )


# --- What to use


def _advice_blocks(result: AuditRecord) -> list[Block]:
    """The recommendation for each shift, in numbers, in words and as commands."""
    rows = []
    for shift in result.shifts:
        advice = shift.recommendation
        row = shift.row(advice.use)
        # A setting has no difference from itself.
        brings = None if advice.use == shift.usual else advice.use_over_usual
        costs = None if advice.use == advice.plain else advice.use_costs
        cells = [
            cell(row.ood),
            None if brings is None else difference_cell(brings),
            cell(row.iid),
            None if costs is None else difference_cell(costs),
        ]
        rows.append(([shift.title, row.title], cells))
    blocks: list[Block] = [
        Prose(
            "Which setting is best for a shift is chosen on train and validation alone: of all "
            "methods the one with the best validation value under the objective that expects "
            "the shift. The tests had no part in the choice; they judge it, and where it shows no "
            "gain under the shift, what is best today is kept."
        ),
        Table.of(
            "What to use",
            ["if you expect", "use"],
            [
                Column("ood", "under the shift"),
                Column("brings", "more than the usual"),
                Column("iid", "today"),
                Column("costs", "beside the best today"),
            ],
            rows,
            f"{HALF_WIDTH}; † where the interval of a difference leaves 0 out.",
        ),
    ]
    for shift in result.shifts:
        advice = shift.recommendation
        paragraphs = [f"**{verbatim(shift.title)}.** {verbatim(advice.words)}"]
        if advice.reference_words:
            paragraphs.append(verbatim(advice.reference_words))
        blocks.append(Prose("\n\n".join(paragraphs)))
        if advice.code:
            blocks.append(Source(f"use-{shift.name}.py", advice.code))
        if advice.commands:
            if advice.commands_of != advice.title:
                blocks.append(Prose(f"To train {verbatim(advice.commands_of)}:"))
            blocks.append(Source(f"train-{shift.name}.sh", " && \\\n".join(advice.commands)))
    return blocks


# --- Limits, and the log


def limits_of_shifts(result: AuditRecord) -> dict[str, list[str]]:
    """Caveats to the numbers, and the shifts they hold for."""
    return by_text((shift.title, shift.limits) for shift in result.shifts)


def _limit_blocks(result: AuditRecord) -> list[Block]:
    """The limits of the shifts, then those of all audits."""
    limits = [
        f"**{verbatim(', '.join(titles))}:** {verbatim(text)}"
        for text, titles in limits_of_shifts(result).items()
    ]
    limits += [
        f"**{verbatim(shift.name)}** was not measured: {verbatim(shift.reason)}."
        for shift in result.left_out
    ]
    limits += [
        f"**{verbatim(f.method)}** failed under {verbatim(f.shift)}: {verbatim(f.error)}."
        for f in result.failures
    ]
    limits += map(verbatim, result.notes)
    limits += [
        f"The budget was {result.budget.words}, and one seed: where the clock ended a "
        "training, another machine may find other numbers, and another seed moves them a little. "
        "No settings were searched; cnsdiff benchmark compares methods with a search and several "
        "seeds.",
        "Intervals are over users: how sure a number is for people like these. A shift made from "
        "a log is a model of a shift; only an experiment with items shown at random is free of "
        "what the log's own recommender showed.",
    ]
    return [Prose("\n\n".join(text[0].upper() + text[1:] for text in limits))]


def _log_blocks(result: AuditRecord) -> list[Block]:
    """The log, the methods, and the pairs of each split."""
    log, budget = result.log, result.budget
    threshold = log.threshold
    facts = [
        ("log", log.source),
        ("rows", f"{log.rows:,}"),
        ("users", f"{log.users:,}"),
        ("items", f"{log.items:,}"),
        *((f"{role} column", str(name)) for role, name in log.columns.items()),
        ("positive", "every row" if threshold is None else f"ratings of {threshold:g} and more"),
        ("budget", f"{budget.words} ({budget.used:.0f} s used)"),
        ("metric", metric_title(result.metric)),
        ("seed", str(result.seed)),
        ("made by", result.created_by),
        ("checksum", log.checksum[:16]),
    ]
    notes = "\n\n".join(map(verbatim, log.notes))
    return [
        Facts(facts),
        *([Prose(notes)] if notes else []),
        Facts([(method.title, method.about) for method in result.methods.values()]),
        Table.of(
            "Pairs of each split",
            ["shift"],
            [Column(title, title, digits=0) for title in SPLIT_TITLES.values()],
            [
                ([shift.title], [shift.dataset.pairs.get(split) for split in SPLIT_TITLES])
                for shift in result.shifts
            ],
        ),
    ]
