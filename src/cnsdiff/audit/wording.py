"""An audit's numbers in words: what they show, and as plainly what they leave open.

An interval that holds 0 is *no difference that this log can show*, not equality; one that is wide
says that the log cannot tell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from cnsdiff.audit.record import ShiftRecord
from cnsdiff.audit.training import USUAL
from cnsdiff.display.wording import listed, metric_title, number, number_span, percent, percent_span
from cnsdiff.evaluation.significance import Interval

#: An interval of a loss that is wider than this tells nothing if it holds 0.
WIDE = 0.3


def can_tell(loss: Interval) -> bool:
    """The loss or gain that the log shows, if any, in words."""
    return math.isfinite(loss.low) and (loss.sign != 0 or loss.high - loss.low <= WIDE)


def lost_phrase(loss: Interval, of: str = "") -> str:
    """Completes the sentence "it would …": ``lose 62% (55–69%)``; ``of`` says of what."""
    if not math.isfinite(loss.low):
        return f"lose an amount{of} that this log cannot tell"
    if loss.low > 0:
        return f"lose {percent(loss.value)} ({percent_span(loss.low, loss.high)}){of}"
    if loss.high < 0:
        return f"gain {percent(-loss.value)} ({percent_span(-loss.high, -loss.low)}){of}"
    if not can_tell(loss):
        return f"lose an amount{of} that this log cannot tell{_inside(loss)}"
    return f"lose nothing{of} that this log can show ({percent_span(loss.low, loss.high)})"


def verdict(subject: str, metric: str, losses: Sequence[tuple[str, Interval]]) -> str:
    """One sentence on what a recommender loses, the largest loss first; then what cannot be told.

    Parameters
    ----------
    subject
        "The usual recommender".
    metric
        Of which it loses.
    losses
        Phrase and loss of each shift: ``("if popularity shifted", ...)``.
    """
    if not losses:
        return f"{subject} could not be judged: no shift of this log was measured."
    order = sorted(losses, key=lambda pair: -pair[1].value)
    of = f" of its {metric_title(metric)}"
    parts: list[str] = []
    unknown: list[str] = []
    verb = ""
    for phrase, lost in order:
        if not can_tell(lost):
            unknown.append(f"{phrase}{_inside(lost)}")
            continue
        words = lost_phrase(lost, "" if parts else of)
        # The verb holds on until there is another.
        before, (verb, rest) = verb, words.split(" ", 1)
        parts.append(f"{rest if verb == before else words} {phrase}")
    if not unknown:
        return f"{subject} would {listed(parts)}."
    untold = listed(unknown, "or")
    if not parts:
        return f"{subject}: this log cannot tell how much{of} it would lose {untold}."
    return f"{subject} would {listed(parts)}; how much {untold}, this log cannot tell."


def _inside(loss: Interval) -> str:
    """The interval in brackets, if there is one."""
    return f" ({percent_span(loss.low, loss.high)})" if math.isfinite(loss.low) else ""


def difference_phrase(difference: Interval) -> str:
    """``+0.0120 (+0.0080 to +0.0160)``, or that the log shows none."""
    if not math.isfinite(difference.low):
        return "a difference that this log cannot tell"
    inside = number_span(difference.low, difference.high, signed=True)
    if difference.low <= 0 <= difference.high:
        return f"no difference that this log can show ({inside})"
    return f"{number(difference.value, signed=True)} ({inside})"


def cost_phrase(difference: Interval, of: float | None = None) -> str:
    """Completes the sentence "today it …": ``costs 5% (0.0120; 0.0080 to 0.0160)``.

    Parameters
    ----------
    difference
        On the IID test, from what it is compared with.
    of
        What that reaches there, for the share.
    """
    if not math.isfinite(difference.low):
        return "costs what this log cannot tell"
    if difference.low <= 0 <= difference.high:
        inside = number_span(difference.low, difference.high, signed=True)
        return f"costs nothing that this log can show ({inside})"
    verb = "costs" if difference.value < 0 else "gains"
    low, high = sorted((abs(difference.low), abs(difference.high)))
    size, inside = number(abs(difference.value)), number_span(low, high)
    if of:
        return f"{verb} {percent(abs(difference.value) / of)} ({size}; {inside})"
    return f"{verb} {size} ({inside})"


def verdicts(metric: str, shifts: Sequence[ShiftRecord]) -> list[str]:
    """A sentence for each recommender that the reader has: their own, then the usual one.

    One with signs that it has seen the held-out pairs gets none. For want of the usual
    recommender, the best today stands in for it.
    """
    sentences = []
    outside = [(shift, own) for shift in shifts for own in shift.outside]
    for name in dict.fromkeys(own.name for _, own in outside):
        own = [(shift, record) for shift, record in outside if record.name == name]
        metrics = {record.metric for _, record in own}
        if len(metrics) > 1 or any(record.warnings for _, record in own):
            continue
        losses = [(shift.phrase, record.lost_matched) for shift, record in own]
        sentences.append(verdict(f"Your recommender {name}", metrics.pop(), losses))
    rows = [(shift, shift.row(shift.usual)) for shift in shifts]
    trained = [(shift, row) for shift, row in rows if row.method == USUAL]
    subject = "The usual recommender (LightGCN with random negatives)"
    if not trained:
        titles = {row.title for _, row in rows}
        subject = titles.pop() if len(titles) == 1 else "The best of the references"
    losses = [(shift.phrase, row.lost_matched) for shift, row in trained or rows]
    return [*sentences, verdict(subject, metric, losses)]
