"""Which setting to use for a shift: what validation chooses, and what the tests say of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnsdiff.audit.commands import prepare_command, reference_code, train_command
from cnsdiff.audit.judging import Choice, Judged, Setting, difference_dict, title_of
from cnsdiff.audit.log import Log, Reading
from cnsdiff.audit.methods import METHODS, OURS
from cnsdiff.audit.shifts import Shift
from cnsdiff.audit.wording import cost_phrase, difference_phrase
from cnsdiff.benchmark.grid import DIAL
from cnsdiff.data import Dataset
from cnsdiff.display.wording import number
from cnsdiff.evaluation.significance import Difference


def recommendation(
    shift: Shift,
    dataset: Dataset,
    judged: Judged,
    choice: Choice,
    reading: Reading,
    log: Log,
    seed: int,
    names: Mapping[str, Path],
) -> dict[str, Any]:
    """Which setting validation chooses for the shift, and whether the tests bear it out.

    Parameters
    ----------
    shift, dataset
        The shift, and its splits.
    judged, choice
        The settings on both tests, and what validation chose of them.
    reading, log
        Of which the commands are made.
    seed
        Of the audit.
    names
        ``data`` and ``run``: directories for the commands.
    """
    expected, usual, plain = choice.expected, choice.usual, choice.plain
    (brings,) = judged.differences("test_ood", [(expected, plain)])
    (costs,) = judged.differences("test_iid", [(expected, plain)])
    # A choice that the OOD test does not bear out is not worth what it costs today.
    use = expected if brings.sign > 0 else plain
    (over_usual,) = judged.differences("test_ood", [(use, usual)])
    use_costs = costs if use is expected else judged.differences("test_iid", [(use, plain)])[0]
    prepare = prepare_command(reading, log, shift, seed, names["data"])
    kept = names["data"] if prepare else dataset.path or names["data"]
    # Of a reference there is no command, but code; beside it, the best that can be trained, unless
    # that is worse, and if the time was up before anything was, the default of this tool.
    of = use if METHODS[use.method].train is not None else choice.trained
    if of is not None and of.key != use.key:
        (lags,) = judged.differences("test_ood", [(of, use)])
        of = None if lags.sign < 0 else of
    untried = choice.trained is None or not any(s.method == OURS for s in judged.settings)
    commands: list[str | None] = []
    trains = ""
    if of is not None or untried:
        anticipates = of is None or of.selection == shift.anticipate + DIAL
        method = OURS if of is None else of.method
        expects = shift if anticipates else None
        commands = [prepare, train_command(method, expects, kept, names["run"])]
        trains = title_of(method, shift.anticipate + DIAL if of is None else of.selection)
    code = None
    if METHODS[use.method].train is None:
        code = reference_code(use.method, use.dial, dataset.path or kept)
    return {
        "use": use.row,
        "title": use.title,
        "expected": expected.row,
        "plain": plain.row,
        "trained": _row(choice.trained),
        "reference": _row(choice.reference),
        "brings": difference_dict(brings),
        "costs": difference_dict(costs),
        "use_over_usual": difference_dict(over_usual),
        "use_costs": difference_dict(use_costs),
        "words": _advice(judged, choice, brings, costs),
        "reference_words": _reference_words(judged, choice, use),
        "commands": [command for command in commands if command],
        "commands_of": trains,
        "code": code,
    }


def _row(setting: Setting | None) -> str | None:
    return None if setting is None else setting.row


def _advice(judged: Judged, choice: Choice, brings: Difference, costs: Difference) -> str:
    """What to use for the shift, in two sentences."""
    expected, plain = choice.expected, choice.plain
    losses = judged.kept
    reached, before = (number(losses.ood[judged.at(s)].value) for s in (expected, plain))
    alike = all(d.value == d.low == d.high == 0 for d in (brings, costs))
    if expected.key == plain.key or alike:
        return (
            f"Use {plain.title}: validation chooses it for this shift and for today alike. "
            f"Under the shift it reaches {reached}."
        )
    cost = cost_phrase(costs, losses.iid[judged.at(plain)].value)
    said = difference_phrase(brings)
    if brings.sign > 0:
        return (
            f"Use {expected.title}: under the shift it reaches {reached} where {plain.title}, "
            f"the best today, reaches {before}: {said}. Today it {cost}."
        )
    verb = "is worse" if brings.sign < 0 else "shows no gain"
    return (
        f"Keep {plain.title}, the best today, which reaches {before} under the shift. What "
        f"validation chooses for it, {expected.title}, {verb}: it reaches {reached}, {said}, and "
        f"today it {cost}."
    )


def _reference_words(judged: Judged, choice: Choice, use: Setting) -> str:
    """Whether anything that was trained beats the references, said plainly."""
    trained, reference = choice.trained, choice.reference
    if trained is None:
        return "Nothing was trained: the time was up. A longer budget goes on from here."
    if reference is None:
        return ""
    losses = judged.kept
    if METHODS[use.method].train is None:
        mine, rival, own = trained, use, use.title
    else:
        mine, rival = use, reference
        (costs,) = judged.differences("test_iid", [(reference, choice.plain)])
        today = f"today it {cost_phrase(costs, losses.iid[judged.at(choice.plain)].value)}"
        if reference.key == choice.plain.key:
            today = "it is the best today, too"
        reached = number(losses.ood[judged.at(reference)].value)
        own = f"{reference.title}, which reaches {reached}; {today}"
    (over,) = judged.differences("test_ood", [(mine, rival)])
    said = f"Beside it, {mine.title}: {difference_phrase(over)}"
    if over.sign > 0:
        return f"It beats the references. The best of them is {own}. {said}."
    if over.sign < 0:
        return (
            f"Nothing that was trained reaches the references. The best of them is {own}. {said}."
        )
    return (
        "Nothing that was trained is shown to beat the references. The best of them is "
        f"{own}. {said}."
    )
