"""The setting to use for a shift, with the commands that make it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnsdiff.audit.judging import Choice, Judged, Setting
from cnsdiff.audit.log import Log, Reading
from cnsdiff.audit.record import AdviceRecord, DifferenceRecord
from cnsdiff.audit.shifts import Shift
from cnsdiff.audit.training import METHODS
from cnsdiff.audit.wording import cost_phrase, difference_phrase
from cnsdiff.base.text import Command, parameter
from cnsdiff.benchmark.grid import PLAIN, is_dialled, without_dial
from cnsdiff.display.wording import number, percent
from cnsdiff.evaluation.anticipation import PEOPLE, POWERS_OF_EXPOSURE
from cnsdiff.evaluation.significance import Difference, Interval
from cnsdiff.recommender.config import resolve_config
from cnsdiff.recommender.presets import DEFAULT


def advice(
    shift: Shift,
    judged: Judged,
    choice: Choice,
    *,
    reading: Reading,
    log: Log,
    seed: int,
    run: Path,
) -> AdviceRecord:
    """The setting that validation chooses for the shift, and whether the tests bear it out.

    The command that trains it writes to ``run``; it is made of the reading, the log and the seed.
    """
    expected, usual, plain = choice.expected, choice.usual, choice.plain
    brings = judged.difference("test_ood", expected, plain)
    costs = judged.difference("test_iid", expected, plain)
    # A choice that the OOD test does not bear out is not worth what it costs today.
    use = expected if brings.sign > 0 else plain
    gained = judged.difference("test_ood", use, plain)
    paid = judged.difference("test_iid", use, plain)
    least = break_even(gained, paid)
    reads = reading_options(reading, log)
    train = train_command(
        use.method, use.selection, shift, reading.log, run, judged.metric, seed, reads
    )
    return AdviceRecord(
        use=use.row,
        title=use.title,
        expected=expected.row,
        plain=plain.row,
        trained=choice.trained.row if choice.trained else None,
        reference=choice.reference.row if choice.reference else None,
        brings=DifferenceRecord.of(brings),
        costs=DifferenceRecord.of(costs),
        use_over_usual=DifferenceRecord.of(judged.difference("test_ood", use, usual)),
        use_costs=DifferenceRecord.of(paid),
        words=_words(judged, choice, brings, costs) + _bet_words(shift, judged, choice),
        reference_words=_reference_words(judged, choice, use),
        break_even=least,
        break_even_words=break_even_words(least, gained, paid),
        commands=[train],
        commands_of=use.title,
    )


def break_even(gained: Interval, paid: Interval) -> float | None:
    """The least probability of the shift from which a setting pays.

    With probability ``p`` of the shift it changes what is expected by ``p g - (1 - p) c``, where
    ``g`` is what it gains under the shift and ``c`` what it costs today; that is 0 at
    ``p = c / (c + g)``. ``None`` unless it gains under the shift and costs today.

    Parameters
    ----------
    gained
        Setting less the best today, under the shift.
    paid
        The same today: negative where it costs.
    """
    gain, cost = gained.value, -paid.value
    return cost / (cost + gain) if gain > 0 and cost > 0 else None


def break_even_words(least: float | None, gained: Interval, paid: Interval) -> str:
    """The break-even in a sentence; empty where nothing is traded."""
    if least is None:
        if gained.value > 0 and paid.value >= 0:
            return "It is no worse today, so it pays however unlikely the shift is."
        return ""
    worth = f"Worth it if you are more than {percent(least, 0)} sure of this shift"
    if paid.sign == 0:
        return f"{worth}; what it costs today, this log cannot tell from nothing."
    return f"{worth}."


def _words(judged: Judged, choice: Choice, brings: Difference, costs: Difference) -> str:
    """The recommendation for the shift, in two sentences."""
    expected, plain = choice.expected, choice.plain
    reached, before = (number(judged.accuracies(s).ood.value) for s in (expected, plain))
    alike = all(d.value == d.low == d.high == 0 for d in (brings, costs))
    if expected.key == plain.key or alike:
        return (
            f"Use {plain.title}: validation chooses it for this shift and for today alike. "
            f"Under the shift it reaches {reached}."
        )
    cost = cost_phrase(costs, judged.accuracies(plain).iid.value)
    gain = difference_phrase(brings)
    if brings.sign > 0:
        return (
            f"Use {expected.title}: under the shift it reaches {reached} where {plain.title}, "
            f"the best today, reaches {before}: {gain}. Today it {cost}."
        )
    verb = "is worse" if brings.sign < 0 else "shows no gain"
    return (
        f"Keep {plain.title}, the best today, which reaches {before} under the shift. What "
        f"validation chooses for it, {expected.title}, {verb}: it reaches {reached}, {gain}, and "
        f"today it {cost}."
    )


def _bet_words(shift: Shift, judged: Judged, choice: Choice) -> str:
    """For a shift of exposure: that its setting is a bet, and what the plain reading reaches."""
    if shift.anticipate not in POWERS_OF_EXPOSURE:
        return ""
    plain = max(
        (
            s
            for s in judged.settings
            if s.method == choice.expected.method and without_dial(s.selection) == PLAIN
        ),
        key=lambda s: is_dialled(s.selection),
    )
    reached = number(judged.accuracies(plain).ood.value)
    return (
        f" Setting a model for this shift ({shift.anticipate}) is a bet, whose sign validation "
        "cannot tell: what was shown at random decides it here. Read as plain validation likes "
        f"it, {METHODS[plain.method].title} reaches {reached}. If the users to be served are "
        f"others, ask some {PEOPLE} of them ({parameter('target_sample', ...)} when preparing)."
    )


def _reference_words(judged: Judged, choice: Choice, use: Setting) -> str:
    """A sentence on whether anything trained beats the references."""
    trained, reference = choice.trained, choice.reference
    if trained is None:
        return "Nothing was trained: the time was up. A longer budget goes on from here."
    if reference is None:
        return ""
    if use.is_reference:
        mine, rival, best = trained, use, use.title
    else:
        mine, rival = use, reference
        reached = number(judged.accuracies(reference).ood.value)
        if reference.key == choice.plain.key:
            today = "it is the best today, too"
        else:
            costs = judged.difference("test_iid", reference, choice.plain)
            today = f"today it {cost_phrase(costs, judged.accuracies(choice.plain).iid.value)}"
        best = f"{reference.title}, which reaches {reached}; {today}"
    over = judged.difference("test_ood", mine, rival)
    beside = f"Beside it, {mine.title}: {difference_phrase(over)}"
    if over.sign > 0:
        return f"It beats the references. Of them validation chooses {best}. {beside}."
    if over.sign < 0:
        return (
            "Nothing that was trained reaches the references. Of them validation chooses "
            f"{best}. {beside}."
        )
    return (
        "Nothing that was trained is shown to beat the references. Of them validation chooses "
        f"{best}. {beside}."
    )


# --- Commands

_COLUMNS = ("user", "item", "rating", "timestamp", "period", "event")


def reading_options(reading: Reading, log: Log) -> dict[str, Any]:
    """The options by which ``cnsdiff train`` reads a log as the audit has."""
    columns = {f"{role}_col": reading.columns.get(role) for role in _COLUMNS}
    events = None
    if reading.events is not None:
        events = ",".join(f"{event}={weight:g}" for event, weight in reading.events.items())
    return {
        "user_features": reading.user_features,
        "item_features": reading.item_features,
        "threshold": None if log.threshold is None else f"{log.threshold:g}",
        "user_core": reading.user_core or None,
        "item_core": reading.item_core or None,
        "max_per_user": reading.max_per_user,
        "events": events,
        "format": None if reading.format == "auto" else reading.format,
        "delimiter": reading.delimiter,
        "time_unit": None if reading.time_unit == "auto" else reading.time_unit,
        **columns,
        "header": reading.header,
        "skip_bad": reading.skip_bad or None,
        "literal_ids": reading.literal_ids or None,
    }


def train_command(
    method: str,
    selection: str,
    shift: Shift,
    place: str | Path,
    out: Path,
    metric: str,
    seed: int = 0,
    reads: Mapping[str, Any] | None = None,
) -> str:
    """``cnsdiff train …`` that makes a row of the table, by the same choices, of a whole log.

    Parameters
    ----------
    selection
        What picks epoch and dial: ``"valid"``, ``"inverse-popularity+dial"``.
    shift
        The one that the row is of.
    metric
        By which validation picks.
    place, reads
        The log and the options by which it is read; or a dataset.
    """
    preset = METHODS[method].preset
    backbone = method if preset is None else None  # a reference is a model in closed form
    # Name what the preset does not say already.
    config = resolve_config(
        {"backbone": {"name": backbone}} if backbone else None, preset=preset or DEFAULT
    )
    usual = config.training
    select_on, dial = without_dial(selection), "auto" if is_dialled(selection) else "off"
    settings = {} if dial == usual.dial or not config.dialled else {"training.dial": dial}
    if metric != usual.select_metric:
        settings["training.select_metric"] = metric
    expected = select_on == shift.anticipate
    return str(
        Command(
            "train",
            place,
            for_=shift.name if expected else None,
            **(reads or {}),
            backbone=backbone,
            preset=None if preset == DEFAULT else preset,
            select_on=None if expected or select_on == usual.select_on else select_on,
            set=settings,
            seed=seed or None,
            out=out,
        )
    )
