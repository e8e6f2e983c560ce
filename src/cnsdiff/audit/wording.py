"""Numbers in words, with what they leave open said as plainly as what they show.

An interval that holds 0 is *no difference that this log can show*, not equality; one that is wide
says that the log cannot tell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from cnsdiff.audit.intervals import Estimate
from cnsdiff.display.tables import metric_title

#: An interval of a loss that is wider than this tells nothing if it holds 0.
WIDE = 0.3
#: The sign and the space before it, at which no line breaks.
PERCENT = "\u00a0%"


def percent(share: float) -> str:
    """``0.624`` -> ``62 %``, with a space that does not break; small ones with a digit more."""
    value = 100 * share
    return f"{value:.1f}{PERCENT}" if 0 < abs(value) < 1 else f"{value:.0f}{PERCENT}"


def number(value: float) -> str:
    """A metric: ``.0432``."""
    return f"{value:.4f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.4f}"


def span(low: float, high: float) -> str:
    """An interval of shares: ``55–69 %``; with a sign where one end is below 0."""
    first, second = f"{100 * low:.0f}", f"{100 * high:.0f}"
    if low < 0:
        return f"−{first.lstrip('-')} to {second.replace('-', '−')}{PERCENT}"
    return f"{first}–{second}{PERCENT}"


def can_tell(loss: Estimate) -> bool:
    """Whether the log shows a loss or a gain, or that there is hardly one."""
    return math.isfinite(loss.low) and (
        loss.low > 0 or loss.high < 0 or loss.high - loss.low <= WIDE
    )


def loss_phrase(loss: Estimate, of: str = "") -> str:
    """Goes on "it would …": ``lose 62 % (55–69 %)``; ``of`` says of what."""
    if not math.isfinite(loss.low):
        return f"lose an amount{of} that this log cannot tell"
    if loss.low > 0:
        return f"lose {percent(loss.value)} ({span(loss.low, loss.high)}){of}"
    if loss.high < 0:
        return f"gain {percent(-loss.value)} ({span(-loss.high, -loss.low)}){of}"
    if not can_tell(loss):
        return f"lose an amount{of} that this log cannot tell{_inside(loss)}"
    return f"lose nothing{of} that this log can show ({span(loss.low, loss.high)})"


def verdict(subject: str, metric: str, found: Sequence[tuple[str, Estimate]]) -> str:
    """One sentence on what a recommender loses, the largest loss first; then what cannot be told.

    Parameters
    ----------
    subject
        "The usual recommender".
    metric
        Of which it loses.
    found
        Phrase and loss of each shift: ``("if popularity shifted", …)``.
    """
    if not found:
        return f"{subject} could not be judged: no shift of this log was measured."
    order = sorted(found, key=lambda one: -one[1].value)
    told = [one for one in order if can_tell(one[1])]
    open_ = [one for one in order if not can_tell(one[1])]
    of = f" of its {metric_title(metric)}"
    parts: list[str] = []
    verb = ""
    for phrase, loss in told:
        said = loss_phrase(loss, "" if parts else of)
        # The verb holds on until there is another.
        before, (verb, rest) = verb, said.split(" ", 1)
        parts.append(f"{rest if verb == before else said} {phrase}")
    if not open_:
        return f"{subject} would {_listed(parts)}."
    untold = _listed([f"{phrase}{_inside(loss)}" for phrase, loss in open_], "or")
    if not told:
        return f"{subject}: this log cannot tell how much{of} it would lose {untold}."
    return f"{subject} would {_listed(parts)}; how much {untold}, this log cannot tell."


def _inside(loss: Estimate) -> str:
    """The interval in brackets, if there is one."""
    return f" ({span(loss.low, loss.high)})" if math.isfinite(loss.low) else ""


def _listed(parts: Sequence[str], word: str = "and") -> str:
    if len(parts) < 3:
        return f" {word} ".join(parts)
    return f"{', '.join(parts[:-1])}, {word} {parts[-1]}"


def difference_phrase(difference: Estimate) -> str:
    """``+.0120 (+.0080 to +.0160)``, or that the log shows none."""
    if not math.isfinite(difference.low):
        return "a difference that this log cannot tell"
    inside = _signed_span(difference)
    if difference.low <= 0 <= difference.high:
        return f"no difference that this log can show ({inside})"
    return f"{_signed(difference.value)} ({inside})"


def cost_phrase(difference: Estimate, of: float | None = None) -> str:
    """Goes on "today it …": ``costs 5 % (.0120; .0080 to .0160)``.

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
        return f"costs nothing that this log can show ({_signed_span(difference)})"
    verb = "costs" if difference.value < 0 else "gains"
    low, high = sorted((abs(difference.low), abs(difference.high)))
    size, inside = number(abs(difference.value)), f"{number(low)} to {number(high)}"
    if of:
        return f"{verb} {percent(abs(difference.value) / of)} ({size}; {inside})"
    return f"{verb} {size} ({inside})"


def _signed(value: float) -> str:
    return f"{'+' if value >= 0 else '−'}{number(abs(value))}"


def _signed_span(difference: Estimate) -> str:
    return f"{_signed(difference.low)} to {_signed(difference.high)}"
