"""The report of an audit: what is lost under which shift, and what to use instead."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from cnsdiff.audit.record import (
    NOT_COMPARABLE,
    AuditRecord,
    PersonRecord,
    SettingRecord,
    ShiftRecord,
    read_audit,
)
from cnsdiff.data.interactions import Step
from cnsdiff.diagnostics.log import funnel_lines
from cnsdiff.display.tables import HALF_WIDTH, Column, Table
from cnsdiff.display.wording import SPLIT_TITLES, listed, metric_title, number
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
    GLOSSARY,
    Block,
    Card,
    Document,
    Facts,
    Figure,
    Fold,
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
    people = people_blocks(result)
    return Document(
        title=f"Audit of {result.name}",
        verdict=result.verdict,
        summary=_summary(result),
        sections=[
            Section("Shifts", [*_cards(result), Prose(_CARDS_SAY)]),
            Section("Log", _log_blocks(result)),
            *([Section("People", people)] if people else []),
            *([Section("Your own", outside_blocks(outside))] if outside else []),
            Section("Numbers", _number_blocks(result)),
            Section("Limits", _limit_blocks(result)),
        ],
    )


def _summary(result: AuditRecord) -> str:
    """What the verdict leaves out, first what was not measured."""
    sentences = list(map(verbatim, result.more_verdicts))
    if result.left_out:
        names = listed([absent.name for absent in result.left_out])
        sentences.append(f"**Left out:** {verbatim(names)}; [why](#limits).")
    if cut := result.missing[len(result.left_out) :]:
        sentences.append(
            f"**Budget:** {verbatim(' '.join(text[0].upper() + text[1:] for text in cut))} Longer "
            f"than {result.budget.words} goes on from here."
        )
    warnings = [text for _, mine in outside_of(result) for text in mine.warnings]
    if warnings:
        sentences.append(f"**Caution:** {verbatim(warnings[0])}")
    return "\n\n".join(sentences)


# --- A card for each shift


_CARDS_SAY = (
    "What to use is chosen on train and [validation](?validation); the tests judge it, and where "
    "they show another better, the card says so. An [interval](?interval) that holds 0 is a "
    "difference that this log cannot show, which is not the same as none."
)
_BADGES = {"high": "sure", "medium": "fairly sure", "low": "unsure", "none": "no verdict"}


def _cards(result: AuditRecord) -> list[Block]:
    cards: list[Block] = [_card(shift) for shift in result.shifts]
    new = result.new_items
    if new is not None:
        facts = [
            ("new items", f"{new.items:,}, of which {new.with_features:,} have features"),
            ("later pairs on them", f"{new.new_pairs:,} of {new.pairs:,}"),
        ]
        if new.won_back is not None and new.won_back.used:
            won = new.won_back
            facts.append(
                ("without → with features", f"{number(won.without)} → {number(won.content)}")
            )
        command = Source("train-content.sh", new.command) if new.command else None
        cards.append(Card(title="New items", text=verbatim(new.words), facts=facts, source=command))
    return cards


def _card(shift: ShiftRecord) -> Card:
    """What happens, what it comes to, what to use, and what that costs."""
    advice = shift.recommendation
    use, plain = shift.row(advice.use), shift.row(advice.plain)
    sentences = [verbatim(shift.meaning), verbatim(shift.how_extreme)]
    facts: list[tuple[str, str]] = [("today → then", _found_words(plain, use))]
    words, title = verbatim(advice.words), verbatim(use.title)
    facts += [("what to use", words.replace(title, f"**{title}**", 1))]
    if advice.reference_words:
        facts.append(("beside it", verbatim(advice.reference_words)))
    if advice.break_even_words:
        facts.append(("break-even", verbatim(advice.break_even_words)))
    facts.append(("what is shown", _range_words(shift, plain, use)))
    if shift.confidence_words:
        facts.append(("how sure", verbatim(shift.confidence_words)))
    return Card(
        title=shift.title,
        text=" ".join(filter(None, sentences)),
        facts=[(name, words) for name, words in facts if words],
        source=Source(f"train-{shift.name}.sh", " && \\\n".join(advice.commands))
        if advice.commands
        else Source(f"use-{shift.name}.py", advice.code)
        if advice.code
        else None,
        badge=_BADGES[shift.confidence] if shift.confidence_words else "",
        level=shift.confidence,
    )


def _found_words(plain: SettingRecord, use: SettingRecord) -> str:
    """Shares of people, as a shop counts them."""
    if plain.found_iid is None or plain.found_ood is None:
        return ""
    words = (
        f"With {verbatim(plain.title)}, the best today: of 100 people {_hundred(plain.found_iid)} "
        f"find something they want among the first 20; then {_hundred(plain.found_ood)}."
    )
    if use.key != plain.key and use.found_ood is not None:
        words += f" With {verbatim(use.title)}: then **{_hundred(use.found_ood)}**."
    return words


def _hundred(share: float) -> str:
    return f"{100 * share:.0f}" if share == 0 or share >= 0.005 else "fewer than 1"


def _range_words(shift: ShiftRecord, plain: SettingRecord, use: SettingRecord) -> str:
    """How much of the catalogue anybody is shown, and how popular it is."""
    n = shift.dataset.items
    shown = [(row, round(row.coverage * n)) for row in (use, plain) if row.coverage is not None]
    if not shown or not n:
        return ""
    row, items = shown[0]
    title = verbatim(row.title)
    words = f"{title[0].upper()}{title[1:]} shows {items:,} of {n:,} items to somebody"
    if len(shown) == 2 and use.key != plain.key:
        words += f", {verbatim(plain.title)} {shown[1][1]:,}"
    if row.popularity is not None and shift.sought is not None:
        words += (
            f". An item on its lists has {row.popularity:,.0f} interactions in train on average, "
            f"one that people then took {shift.sought:,.0f}"
        )
    return f"{words}."


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


# --- People


def people_blocks(result: AuditRecord) -> list[Block]:
    """A few users under each shift, the first shift's in sight."""
    blocks: list[Block] = []
    for shift in result.shifts:
        if not shift.people:
            continue
        cards = [_person_card(shift, person) for person in shift.people]
        blocks += cards if not blocks else [Fold(shift.title, cards)]
    if not blocks:
        return []
    first = next(shift.title for shift in result.shifts if shift.people)
    return [
        Prose(
            f"{verbatim(first)}: users of the test, from little to very active, drawn by chance "
            "and not by how well anything does for them. Few of anybody's items can be among ten; "
            "**bold** are those that the person then took."
        ),
        *blocks,
    ]


def _person_card(shift: ShiftRecord, person: PersonRecord) -> Card:
    def items(names: Sequence[str], n: int) -> str:
        rest = n - len(names)
        return "; ".join(map(verbatim, names)) + (f"; and {rest:,} more" if rest > 0 else "")

    lists = [
        (
            shift.row(key).title,
            [f"**{verbatim(e.item)}**" if e.wanted else verbatim(e.item) for e in shown],
        )
        for key, shown in person.lists.items()
    ]
    return Card(
        title=person.user,
        text="",
        facts=[
            ("had", items(person.history, person.n_history)),
            ("then took", items(person.wanted, person.n_wanted)),
            *lists,
        ],
    )


# --- Numbers


def _number_blocks(result: AuditRecord) -> list[Block]:
    """All tables, for those who want to check."""
    return [
        Fold("What each method loses", _loss_blocks(result)),
        Fold("What to use, in numbers", [_advice_table(result)]),
        Fold("What the lists show", [_range_table(result)]),
        *(Fold(shift.title, shift_blocks(result, shift)) for shift in result.shifts),
        Fold(
            "Methods",
            [Facts([(method.title, method.about) for method in result.methods.values()])],
        ),
    ]


def _advice_table(result: AuditRecord) -> Table:
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
    return Table.of(
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
    )


def _range_table(result: AuditRecord) -> Table:
    return Table.of(
        "What the lists show",
        ["shift", "setting"],
        [
            Column("coverage", "coverage", digits=0, percent=True, signed=False),
            Column("popularity", "interactions of an item shown", digits=0),
            Column("sought", "of an item taken", digits=0),
            Column("gini", "concentration", digits=2),
        ],
        [
            ([shift.title, row.title], [row.coverage, row.popularity, shift.sought, row.gini])
            for shift in result.shifts
            for row in compared_rows(shift)
        ],
        "Of lists of 20 for the users of the OOD test. Concentration is the Gini coefficient of "
        "how often items are shown: 0 if all are alike, 1 if one item is everywhere.",
    )


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
    words = [(word.upper() if len(word) < 4 else word, said) for word, said in GLOSSARY.items()]
    return [
        Prose("\n\n".join(text[0].upper() + text[1:] for text in limits)),
        Fold("Words used here", [Facts(words)]),
    ]


def _funnel_table(funnel: Sequence[Step]) -> Table:
    lines = [
        ([f"less {label.strip()}" if rows < 0 else label], [abs(rows)])
        for label, rows in funnel_lines(funnel)
    ]
    return Table.of("From rows to pairs", ["step"], [Column("rows", "rows", 0)], lines)


def _log_blocks(result: AuditRecord) -> list[Block]:
    """From the rows of the log to the pairs of each split."""
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
        *([_funnel_table(log.funnel)] if log.funnel else []),
        *([Prose(notes)] if notes else []),
        Fold("How it was read", [Facts(facts)]),
        Fold(
            "Pairs of each split",
            [
                Table.of(
                    "Pairs of each split",
                    ["shift"],
                    [Column(title, title, digits=0) for title in SPLIT_TITLES.values()],
                    [
                        ([shift.title], [shift.dataset.pairs.get(split) for split in SPLIT_TITLES])
                        for shift in result.shifts
                    ],
                )
            ],
        ),
    ]
