"""The setting to use for a shift, with the commands that make it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnsdiff.audit.judging import TESTS, Choice, Judged, Setting
from cnsdiff.audit.log import Log, Reading
from cnsdiff.audit.record import FEW_USERS, AdviceRecord, Case, DifferenceRecord, Test
from cnsdiff.audit.shifts import CERTAIN, Shift
from cnsdiff.audit.training import METHODS
from cnsdiff.audit.wording import cost_phrase, difference_phrase
from cnsdiff.base.text import Command, parameter
from cnsdiff.benchmark.grid import PLAIN, REHEARSAL, is_dialled, without_dial
from cnsdiff.display.wording import count, number, percent
from cnsdiff.evaluation.anticipation import PEOPLE, POWERS_OF_EXPOSURE
from cnsdiff.evaluation.significance import Interval, holm
from cnsdiff.recommender.config import resolve_config
from cnsdiff.recommender.presets import DEFAULT

#: A setting is level with another if no difference is shown and it reaches so much of it.
LEVEL = 0.95
#: Begins the sentence on the price of what is set for the time to come.
PAST = "On pairs of the past held out at random, no yardstick for the time to come, it"
#: What a test should tell, as a share of what the best today reaches.
TOLD = 0.1


@dataclass(frozen=True)
class Decision:
    """The advice for a shift and the rule that gives it.

    =========  ==========================================================  =====================
    case       when                                                        advice
    =========  ==========================================================  =====================
    too few    a test has fewer than ``FEW_USERS`` users                   none
    expected   validation's choice for the shift is shown better than the  that choice
               best today, or the shift is certain
    plain      it is not                                                   the best today
    both       another is shown better than either of these, but not by    to try both
               Holm's correction for the number of rivals; or in time
    better     the same, by that correction too                            the other
    simpler    a simpler one is level with the one found so far            the simpler
    =========  ==========================================================  =====================

    *Shown* means that the 95% interval over users leaves 0 out; *level* and *simpler* are as
    :func:`decide` says.

    Attributes
    ----------
    case
        The last rule that applied.
    chosen
        By validation alone.
    best
        ``chosen``, or the other that the test shows better.
    use
        The advice; of two to try, the chosen one.
    doubtful
        Whether ``best`` leads ``chosen`` by its interval alone, and not by Holm's correction.
    """

    case: Case
    chosen: Setting
    best: Setting
    use: Setting
    doubtful: bool = False


def decide(judged: Judged, choice: Choice, *, certain: bool) -> Decision:
    """The setting to advise: chosen by validation, then held against what the tests show.

    No setting is advised alone that another is shown to beat under the shift; recent MostPop is
    offered as it is set for the shift alone, since plain validation places its half-life by
    chance. Of settings that are level the simplest method is taken, by the order of
    :data:`~cnsdiff.audit.training.METHODS`, and of its readings the best under the shift: level
    with another is one of which no difference is shown on either test and which reaches
    :data:`LEVEL` of it on both.
    """
    offered = [
        s
        for s in judged.settings
        if s.method in METHODS and s.key == s.row and s.key != f"recent-mostpop/{PLAIN}"
    ]
    rows = {s.key: s for s in offered}
    expected, plain = (rows.get(s.row, s) for s in (choice.expected, choice.plain))
    if judged.has_few_users:
        return Decision("too few", plain, plain, plain)
    # What validation chooses.
    case: Case = "plain"
    chosen = plain
    if certain or judged.difference("test_ood", expected, plain).sign > 0:
        case, chosen = "expected", expected
    # What the test shows better than that.
    ahead = _ahead(judged, offered, chosen)
    best, doubtful = chosen, False
    while rivals := _ahead(judged, offered, best):
        best = max(rivals, key=lambda setting: judged.accuracies(setting).ood.value)
    if best is not chosen:
        others = [s for s in offered if s.key != chosen.key]
        over = judged.differences("test_ood", [(s, chosen) for s in others])
        adjusted = holm([difference.p_value for difference in over])
        shown = {s.key for s, p in zip(others, adjusted, strict=True) if p < 0.05}
        # A rehearsal and a test are two stretches of time, and users speak for neither.
        doubtful = certain or not shown & {s.key for s in ahead}
        case = "both" if doubtful else "better"
    # The simplest of those that are level with it.
    for setting in sorted(offered, key=lambda s: (_simplicity(s), -judged.accuracies(s).ood.value)):
        if _simplicity(setting) >= _simplicity(best):
            break
        if _is_level(judged, setting, best) and not _ahead(judged, offered, setting):
            return Decision("simpler", chosen, best, setting, doubtful)
    # Where the test's word is doubtful, what no test has chosen is first to try.
    return Decision(case, chosen, best, chosen if case == "both" else best, doubtful)


def _ahead(judged: Judged, offered: Sequence[Setting], setting: Setting) -> list[Setting]:
    """Those that the OOD test shows better than a setting."""
    return [s for s in offered if judged.difference("test_ood", s, setting).sign > 0]


def _is_level(judged: Judged, setting: Setting, other: Setting) -> bool:
    """Whether a setting is level with another, or better, on both tests."""
    mine, theirs = judged.accuracies(setting), judged.accuracies(other)
    return (
        mine.ood.value >= LEVEL * theirs.ood.value
        and mine.iid.value >= LEVEL * theirs.iid.value
        and all(judged.difference(test, setting, other).sign >= 0 for test in TESTS)
    )


def _simplicity(setting: Setting) -> int:
    """Where its method stands in the order of simplicity; readings of one cost the same."""
    return list(METHODS).index(setting.method)


def advice(
    shift: Shift,
    judged: Judged,
    choice: Choice,
    *,
    reading: Reading,
    log: Log,
    seed: int,
    run: Path,
    served: str = "",
) -> AdviceRecord:
    """The advice for a shift, its price, and the command that trains it.

    The command writes to ``run``; it is made of the reading, the log and the seed. ``served`` says
    how the users of the test differ from those of the log, where they are others.
    """
    expected, usual, plain = choice.expected, choice.usual, choice.plain
    brings = judged.difference("test_ood", expected, plain)
    costs = judged.difference("test_iid", expected, plain)
    decision = decide(judged, choice, certain=shift.name in CERTAIN)
    use = decision.use
    gained = judged.difference("test_ood", use, plain)
    paid = judged.difference("test_iid", use, plain)
    least = None if shift.name in CERTAIN else break_even(gained, paid)
    few = decision.case == "too few"
    reads = reading_options(reading, log)
    tried = {run: use}
    if decision.case == "both":
        tried[run.with_name(f"{run.name}-{decision.best.method}")] = decision.best
    commands = [
        train_command(s.method, s.selection, shift, reading.log, out, judged.metric, seed, reads)
        for out, s in tried.items()
    ]
    # Pairs held out at random are of the past, not of today, where the log has a future.
    today = "Today it" if shift.anticipate != REHEARSAL else PAST
    words = _words(judged, choice, decision, today) if not few else _too_few_words(judged, choice)
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
        words=words + ("" if few else _bet_words(shift, judged, choice, served)),
        reference_words="" if few else _reference_words(judged, choice, use),
        break_even=least,
        break_even_words="" if shift.name in CERTAIN else break_even_words(least, gained, paid),
        case=decision.case,
        chosen=decision.chosen.row,
        best=decision.best.row,
        commands=[] if few else commands,
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


def _too_few_words(judged: Judged, choice: Choice) -> str:
    """That there is no advice, and how many users would be needed for one."""
    n = judged.n_users
    # Where validation chooses one setting for both, its own accuracy stands for a difference.
    ours, theirs = choice.expected, choice.plain
    if ours.key == theirs.key:
        ours = next((s for s in judged.settings if s.method != theirs.method), ours)
    needed = judged.users_needed("test_ood", ours, theirs, TOLD)
    return (
        f"No advice: the IID test has {count(n['test_iid'], 'user')} and the OOD test "
        f"{count(n['test_ood'], 'user')}, and fewer than {FEW_USERS} show nothing. About "
        f"{needed:,} in each would tell a difference of {percent(TOLD)}."
    )


def _words(judged: Judged, choice: Choice, decision: Decision, today: str) -> str:
    """The advice in words: what to use, what it reaches and costs, and how it was found.

    ``today`` begins the sentence on its price.
    """
    plain, use = choice.plain, decision.use
    reached = number(judged.accuracies(use).ood.value)
    before = judged.accuracies(plain)
    if decision.case == "both":
        best, over = decision.best, judged.difference("test_ood", decision.best, use)
        today_best = ", the best today by validation" if best.key == plain.key else ""
        first = (
            f"Try both {use.title}, which validation chooses, and {best.title}{today_best}: under "
            f"the shift they reach {reached} and {number(judged.accuracies(best).ood.value)}, "
            f"{difference_phrase(over)}"
        )
        if plain.key not in (use.key, best.key):
            first += (
                f"; {plain.title}, the best today by validation, reaches {number(before.ood.value)}"
            )
        first += "."
    elif use.key == plain.key:
        first = (
            f"Keep {plain.title}, the best today by validation, which reaches {reached} under the "
            "shift."
        )
        if _are_alike(judged, choice.expected, plain):
            first = (
                f"Use {plain.title}: validation chooses it for this shift and for today alike. "
                f"Under the shift it reaches {reached}."
            )
    else:
        over = judged.difference("test_ood", use, plain)
        paid = judged.difference("test_iid", use, plain)
        first = (
            f"Use {use.title}: under the shift it reaches {reached} where {plain.title}, the "
            f"best today by validation, reaches {number(before.ood.value)}: "
            f"{difference_phrase(over)}. {today} {cost_phrase(paid, before.iid.value)}."
        )
    return " ".join((first, *_grounds(judged, choice, decision)))


def _grounds(judged: Judged, choice: Choice, decision: Decision) -> list[str]:
    """Sentences on what validation chose, and what the test said of it."""
    expected, plain = choice.expected, choice.plain
    chosen, best, use = decision.chosen, decision.best, decision.use

    def over(test: Test, first: Setting, second: Setting) -> str:
        return difference_phrase(judged.difference(test, first, second))

    told = []
    cost = cost_phrase(
        judged.difference("test_iid", expected, plain), judged.accuracies(plain).iid.value
    )
    if chosen.row == plain.row and not _are_alike(judged, expected, plain):
        told.append(
            "Validation chooses it for the shift."
            if use.key == expected.key
            else f"What validation chooses for the shift, {expected.title}, shows no gain on the "
            f"test: it reaches {number(judged.accuracies(expected).ood.value)}, "
            f"{over('test_ood', expected, plain)}, and today it {cost}."
        )
    if best.key != chosen.key:
        if decision.case != "both":  # else the advice has said so
            told.append(
                f"Validation chose {chosen.title}; the test shows {best.title} better: "
                f"{over('test_ood', best, chosen)}."
            )
        if decision.case != "simpler":
            told.append(
                f"The figure of {best.title} is a little too good, as it was picked on this test."
            )
        if decision.doubtful:
            told.append(
                "Among so many rivals, or in one stretch of time, one may lead so far by chance."
            )
    if decision.case == "simpler":
        level = f"It is the simplest of those that the tests find level with {best.title}"
        if best.key != plain.key:  # else the advice has said how far they are apart
            level += (
                f": {over('test_ood', use, best)} under the shift, "
                f"{over('test_iid', use, best)} today"
            )
        told.append(f"{level}.")
    return told


def _are_alike(judged: Judged, setting: Setting, other: Setting) -> bool:
    """Whether two settings are one, or make the same lists on both tests."""
    differences = (judged.difference(test, setting, other) for test in TESTS)
    return setting.key == other.key or all(d.value == d.low == d.high == 0 for d in differences)


def _bet_words(shift: Shift, judged: Judged, choice: Choice, served: str) -> str:
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
        f"it, {METHODS[plain.method].title} reaches {reached}.{served} If the users to be served "
        f"are others, ask some {PEOPLE} of them ({parameter('target_sample', ...)} when preparing)."
    )


def _reference_words(judged: Judged, choice: Choice, use: Setting) -> str:
    """A sentence on whether anything trained beats the references."""
    trained, reference = choice.trained, choice.reference
    if trained is None:
        return (
            "The time was up before a trained model was set for this shift; only references are. "
            "A longer budget goes on from here."
        )
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
    features: object = reading.item_features
    if isinstance(features, Mapping):
        features = [f"{name}={file}" if name else file for name, file in features.items()]
    return {
        "user_features": reading.user_features,
        "item_features": features,
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
    *,
    content: str | None = None,
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
    content
        What tells items from their features.
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
            content=content,
            set=settings,
            seed=seed or None,
            out=out,
        )
    )
