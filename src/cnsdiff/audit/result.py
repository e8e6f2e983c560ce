"""What an audit found, as one JSON document: numbers first, and the words that they bear out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnsdiff.audit.commands import prepare_command, reference_code, train_command
from cnsdiff.audit.external import Outside
from cnsdiff.audit.intervals import Estimate
from cnsdiff.audit.judging import (
    TESTS,
    Choice,
    Difference,
    Judged,
    Setting,
    choose,
    judge,
    title_of,
)
from cnsdiff.audit.log import Log, Reading
from cnsdiff.audit.methods import KS, METHODS, OURS, USUAL
from cnsdiff.audit.shifts import Shift
from cnsdiff.audit.suspicion import TOO_GOOD
from cnsdiff.audit.wording import (
    cost_phrase,
    difference_phrase,
    loss_phrase,
    metric_name,
    number,
    percent,
    verdict,
)
from cnsdiff.benchmark.grid import DIAL, PLAIN
from cnsdiff.data import Dataset
from cnsdiff.diagnostics import describe
from cnsdiff.evaluation.environment import exposure_counts
from cnsdiff.evaluation.significance import holm
from cnsdiff.training.config import TrainingConfig
from cnsdiff.training.selection import as_configured

#: Fewer users than this in a test make wide intervals.
FEW_USERS = 100
#: Fewer validation pairs than this, counted as they weigh, make a choice uncertain.
FEW_PAIRS = 500


@dataclass(frozen=True)
class Found:
    """What was measured under one shift, before it is put into words."""

    shift: Shift
    dataset: Dataset
    settings: tuple[Setting, ...]
    outside: tuple[Outside, ...]
    unfinished: tuple[str, ...]


def shift_result(
    found: Found, *, reading: Reading, log: Log, metric: str, seed: int, names: Mapping[str, Path]
) -> dict[str, Any]:
    """All that is said of one shift.

    Parameters
    ----------
    found
        What was measured.
    reading, log
        Of which the commands are made.
    metric, seed
        Of the audit.
    names
        ``data`` and ``run``: directories for the commands.
    """
    shift, dataset = found.shift, found.dataset
    every = (*found.settings, *(s for one in found.outside for s in one.settings))
    choice = choose(found.settings, shift.anticipate)
    judged = judge(every, dataset, metric, seed=seed)
    told: dict[str, Any] = {
        "name": shift.name,
        "title": shift.title,
        "phrase": shift.phrase,
        "meaning": shift.meaning,
        "anticipate": shift.anticipate,
        "settings": dict(shift.settings),
        "dataset": {
            "name": dataset.name,
            "fingerprint": dataset.fingerprint,
            "users": dataset.n_users,
            "items": dataset.n_items,
            "pairs": {
                name: dataset.manifest["splits"][name]["rows"] for name in dataset.split_names
            },
        },
        "size": _size(dataset, seed),
        "n_users": dict(judged.n_users),
        "effective_pairs": _effective_pairs(dataset, shift),
        "table": _table(judged, choice),
        "usual": _key(choice.usual),
        "recommendation": _recommendation(found, judged, choice, reading, log, seed, names),
        "outside": [_outside(one, found, judged, choice, metric, seed) for one in found.outside],
        "unfinished": list(found.unfinished),
    }
    told["limits"] = _limits(told, judged)
    return told


def _estimates(judged: Judged, setting: Setting) -> dict[str, Any]:
    at = judged.at(setting)
    found = judged.losses
    return {
        "iid": found.iid[at].to_list(),
        "ood": found.ood[at].to_list(),
        "iid_matched": found.iid_matched[at].to_list(),
        "loss": found.loss[at].to_list(),
    }


def _table(judged: Judged, choice: Choice) -> list[dict[str, Any]]:
    """A row for each setting, beside the usual recommender on both tests."""
    others = [s for s in judged.settings if s.key != choice.usual.key]
    against: dict[str, dict[str, Any]] = {s.key: {} for s in judged.settings}
    for test in TESTS:
        differences = judged.differences(test, [(s, choice.usual) for s in others])
        adjusted = holm([one.p_value for one in differences]).tolist() if differences else []
        for setting, one, p_holm in zip(others, differences, adjusted, strict=True):
            against[setting.key][test] = {
                "difference": one.estimate.to_list(),
                "p": one.p_value,
                "p_holm": p_holm,
            }
    return [
        {
            "key": s.key,
            "method": s.method,
            "selection": s.selection,
            "title": title_of(s.method, s.selection),
            "validation": s.validation,
            "dial": s.dial,
            "epochs": s.epochs,
            "seconds": s.seconds,
            "stopped_by": s.stopped_by,
            **_estimates(judged, s),
            "against_usual": against[s.key],
        }
        for s in judged.settings
        # What is popularity itself has no dial: all selections read it alike.
        if s.method != "mostpop" or s.selection == PLAIN
    ]


def _recommendation(
    found: Found,
    judged: Judged,
    choice: Choice,
    reading: Reading,
    log: Log,
    seed: int,
    names: Mapping[str, Path],
) -> dict[str, Any]:
    """Which setting validation chooses for the shift, and whether the tests bear it out."""
    expected, usual, plain = choice.expected, choice.usual, choice.plain
    (brings,) = judged.differences("test_ood", [(expected, plain)])
    (costs,) = judged.differences("test_iid", [(expected, plain)])
    # A choice that the OOD test does not bear out is not worth what it costs today.
    use = expected if brings.sign > 0 else plain
    (over_usual,) = judged.differences("test_ood", [(use, usual)])
    (use_costs,) = judged.differences("test_iid", [(use, plain)])
    prepare = prepare_command(reading, log, found.shift, seed, names["data"])
    kept = names["data"] if prepare else found.dataset.path or names["data"]
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
        anticipates = of is None or of.selection == found.shift.anticipate + DIAL
        method = OURS if of is None else of.method
        shift = found.shift if anticipates else None
        commands = [prepare, train_command(method, shift, kept, names["run"])]
        trains = title_of(method, found.shift.anticipate + DIAL if of is None else of.selection)
    code = None
    if METHODS[use.method].train is None:
        code = reference_code(use.method, use.dial, found.dataset.path or kept)
    return {
        "use": _key(use),
        "title": _title(use),
        "expected": _key(expected),
        "plain": _key(plain),
        "trained": _key(choice.trained),
        "reference": _key(choice.reference),
        "brings": _difference(brings),
        "costs": _difference(costs),
        "use_over_usual": _difference(over_usual),
        "use_costs": _difference(use_costs),
        "words": _advice(judged, choice, brings, costs),
        "reference_words": _reference_words(judged, choice, use),
        "commands": [command for command in commands if command],
        "commands_of": trains,
        "code": code,
    }


def _key(setting: Setting | None) -> str | None:
    """The row of a setting in the table: of MostPop, which has no dial, there is one."""
    if setting is not None and setting.method == "mostpop":
        return f"mostpop/{PLAIN}"
    return None if setting is None else setting.key


def _title(setting: Setting) -> str:
    return title_of(setting.method, setting.selection)


def _difference(one: Difference) -> dict[str, Any]:
    return {"difference": one.estimate.to_list(), "p": one.p_value, "sign": one.sign}


def _advice(judged: Judged, choice: Choice, brings: Difference, costs: Difference) -> str:
    """What to use for the shift, in two sentences."""
    expected, plain = choice.expected, choice.plain
    losses = judged.losses
    reached, before = (number(losses.ood[judged.at(s)].value) for s in (expected, plain))
    same = (0.0, 0.0, 0.0)
    alike = (brings.estimate, costs.estimate) == (Estimate(*same), Estimate(*same))
    if expected.key == plain.key or alike:
        return (
            f"Use {_title(plain)}: validation chooses it for this shift and for today alike. "
            f"Under the shift it reaches {reached}."
        )
    cost = cost_phrase(costs.estimate, losses.iid[judged.at(plain)].value)
    said = difference_phrase(brings.estimate)
    if brings.sign > 0:
        return (
            f"Use {_title(expected)}: under the shift it reaches {reached} where {_title(plain)}, "
            f"the best today, reaches {before}: {said}. Today it {cost}."
        )
    verb = "is worse" if brings.sign < 0 else "shows no gain"
    return (
        f"Keep {_title(plain)}, the best today, which reaches {before} under the shift. What "
        f"validation chooses for it, {_title(expected)}, {verb}: it reaches {reached}, {said}, and "
        f"today it {cost}."
    )


def _reference_words(judged: Judged, choice: Choice, use: Setting) -> str:
    """Whether anything that was trained beats the references, said plainly."""
    trained, reference = choice.trained, choice.reference
    if trained is None:
        return "Nothing was trained: the time was up. A longer --budget goes on from here."
    if reference is None:
        return ""
    losses = judged.losses
    if METHODS[use.method].train is None:
        mine, rival, own = trained, use, _title(use)
    else:
        mine, rival = use, reference
        (costs,) = judged.differences("test_iid", [(reference, choice.plain)])
        today = f"today it {cost_phrase(costs.estimate, losses.iid[judged.at(choice.plain)].value)}"
        if reference.key == choice.plain.key:
            today = "it is the best today, too"
        reached = number(losses.ood[judged.at(reference)].value)
        own = f"{_title(reference)}, which reaches {reached}; {today}"
    (over,) = judged.differences("test_ood", [(mine, rival)])
    said = f"Beside it, {_title(mine)}: {difference_phrase(over.estimate)}"
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


def _effective_pairs(dataset: Dataset, shift: Shift) -> float:
    """How many equal pairs the validation pairs are worth under the shift's objective."""
    train = dataset.split("train").csr(dataset.n_users, dataset.n_items)
    found = as_configured(
        shift.anticipate,
        TrainingConfig(**shift.training),
        dataset.split("valid"),
        train,
        KS,
        exposure_counts(dataset).numpy(),
    )
    return found.effective_pairs


def _size(dataset: Dataset, seed: int) -> dict[str, Any]:
    """How far each split is from train, beside what chance alone makes."""
    description = describe(dataset, seed=seed)
    splits = {}
    for name, split in description.splits.items():
        told: dict[str, Any] = {
            "pairs": split.pairs,
            "n_users": split.users.present,
            "n_items": split.items.present,
            "head": split.head,
            "deciles": list(split.deciles),
            "dropped_unknown": split.dropped_unknown,
        }
        for axis, shift in split.shift.items():
            chance = None if shift.chance is None else shift.chance.js
            told[axis] = {"js": shift.observed.js, "chance": chance}
        splits[name] = told
    return {"splits": splits, "words": _size_words(splits), "problems": list(description.problems)}


def _size_words(splits: Mapping[str, Mapping[str, Any]]) -> str:
    told = splits["test_ood"].get("items")
    if told is None or told["chance"] is None:
        return ""
    js, chance = told["js"], told["chance"]
    times = js / chance if chance else math.inf
    size = f"Items of the OOD test are {js:.3f} nats from train's, {chance:.3f} by chance alone"
    head = (
        f"{percent(splits['test_ood']['head'])} of its pairs are on the fifth of the items that is "
        f"most popular in train, {percent(splits['test_iid']['head'])} of the IID test's"
    )
    if times < 1.15:
        return f"{size}: no more shift of items than chance makes in a test of this size. {head}."
    return f"{size}: {'a strong' if times > 2 else 'a weak'} shift of items. {head}."


def _limits(told: Mapping[str, Any], judged: Judged) -> list[str]:
    limits = []
    for test, name in zip(TESTS, ("IID", "OOD"), strict=True):
        if judged.n_users[test] < FEW_USERS:
            limits.append(
                f"The {name} test has {judged.n_users[test]:,} users only, so its intervals are "
                "wide and small differences cannot be seen."
            )
    if not judged.losses.comparable:
        limits.append(
            "The users of the OOD test have far more or fewer items to find than those of the IID "
            "test, so what is lost cannot be told; methods can be compared all the same."
        )
    if told["effective_pairs"] < FEW_PAIRS:
        limits.append(
            f"For this shift the validation pairs weigh as much as {told['effective_pairs']:,.0f} "
            "equal ones, so that its choice is uncertain."
        )
    dropped = told["size"]["splits"]["test_ood"]["dropped_unknown"] or 0
    kept = told["size"]["splits"]["test_ood"]["pairs"]
    if dropped > kept:
        limits.append(
            f"{dropped:,} of {dropped + kept:,} pairs of the OOD test are of users or items that "
            "train does not know and were left out: what is said holds for the known ones alone."
        )
    cut = sorted({r["method"] for r in told["table"] if r["stopped_by"] == "time"})
    if cut:
        names = " and ".join(METHODS[name].title for name in cut)
        limits.append(
            f"The clock ended the training of {names}: with a longer --budget the numbers may rise."
        )
    limits += [
        f"{METHODS[name].title} was left out: the time was up." for name in told["unfinished"]
    ]
    limits += told["size"]["problems"]
    return limits


def _outside(
    one: Outside, found: Found, judged: Judged, choice: Choice, metric: str, seed: int
) -> dict[str, Any]:
    """What is said of a recommender that we did not train."""
    own_metric = f"{metric.partition('@')[0]}@{one.k}"
    here = judged
    if own_metric != metric:
        here = judge(judged.settings, found.dataset, own_metric, seed=seed)
    given = one.settings[0]
    rivals = {"expected": choice.expected, "plain": choice.plain, "usual": choice.usual}
    against: dict[str, Any] = {}
    for test in TESTS:
        differences = here.differences(test, [(given, rival) for rival in rivals.values()])
        against[test] = {
            name: {
                **_difference(difference),
                "title": title_of(rival.method, rival.selection),
                "value": _estimates(here, rival)["ood" if test == "test_ood" else "iid"],
            }
            for (name, rival), difference in zip(rivals.items(), differences, strict=True)
        }
    dialled = None
    if len(one.settings) > 1:
        turned = one.settings[-1]
        (ood,) = here.differences("test_ood", [(turned, given)])
        (iid,) = here.differences("test_iid", [(turned, given)])
        dialled = {
            "dial": turned.dial,
            "brings": _difference(ood),
            "costs": _difference(iid),
            "words": (
                f"Its vectors read at dial {turned.dial:g}, which validation picks for this shift: "
                f"{difference_phrase(ood.estimate)} under the shift; today it "
                f"{cost_phrase(iid.estimate)}."
            ),
            **_estimates(here, turned),
        }
    return {
        "name": one.name,
        "kind": one.kind,
        "metric": own_metric,
        "counts": one.counts,
        "without_list": dict(one.without_list),
        "of_this_shift": one.of_this_shift,
        **_estimates(here, given),
        "against": against,
        "dialled": dialled,
        "signs": {
            "train": one.signs.train.to_list(),
            "held_out": one.signs.held_out.to_list(),
            "ratio": one.signs.ratio.to_list(),
            "n_users": one.signs.n_users,
        },
        "words": _outside_words(one, here, choice, against, own_metric),
        "caveats": _caveats(one),
        "warnings": _warnings(one, here, choice),
        "notes": _notes(one, here, metric, own_metric),
    }


def _outside_words(
    one: Outside,
    judged: Judged,
    choice: Choice,
    against: Mapping[str, Mapping[str, Any]],
    metric: str,
) -> str:
    """What it reaches and loses, and what the chosen setting reaches beside it."""
    at = judged.at(one.settings[0])
    found = judged.losses
    beside = _estimate(against["test_ood"]["expected"]["difference"])
    today = _estimate(against["test_iid"]["plain"]["difference"])
    return (
        f"{one.name} reaches {number(found.iid[at].value)} of {metric_name(metric)} today and "
        f"{number(found.ood[at].value)} under the shift: it would {loss_phrase(found.loss[at])}. "
        f"Under the shift, beside {_title(choice.expected)}: {difference_phrase(beside)}. Today, "
        f"beside {_title(choice.plain)}: {difference_phrase(today)}."
    )


def _caveats(one: Outside) -> list[str]:
    """What holds of the recommender whatever was measured."""
    caveats = [
        "What it was trained on cannot be known from here; only what was made from a shift's train "
        "file alone is judged fairly."
    ]
    if not one.of_this_shift:
        caveats.append(
            f"One {'file' if one.kind == 'recommendations' else 'set of vectors'} serves all "
            "shifts, and each shift holds out other pairs: a system trained on the whole log has "
            "seen them all."
        )
    return caveats


def _warnings(one: Outside, judged: Judged, choice: Choice) -> list[str]:
    """Signs that the recommender has seen the pairs that judge it."""
    seen, given = one.signs, one.settings[0]
    if seen.left_out:
        return [
            f"{one.name} has probably seen the held-out pairs and leaves them out as known: its "
            "lists hold fewer of a user's own held-out items than strangers' lists do. Its numbers "
            "are then too low, and say nothing."
        ]
    values = judged.losses.iid
    rivals = (choice.plain, choice.usual, choice.expected)
    best = max(rivals, key=lambda s: values[judged.at(s)].value)
    (over,) = judged.differences("test_iid", [(given, best)])
    mine, theirs = values[judged.at(given)], values[judged.at(best)].value
    if seen.learnt_from_both and over.sign > 0:
        return [
            f"{one.name} has probably seen the held-out pairs: its lists hold those of the IID "
            f"test as often as those it was to learn from ({percent(seen.held_out.value)} and "
            f"{percent(seen.train.value)} beyond chance), and it is better there than all that was "
            "trained here. Its numbers are then too good."
        ]
    if mine.low > TOO_GOOD * theirs:
        return [
            f"{one.name} is more than {TOO_GOOD:g} times as accurate on the IID test as anything "
            f"trained here ({number(mine.value)} and {number(theirs)}): it is either much better, "
            "or has seen the held-out pairs."
        ]
    return []


def _notes(one: Outside, judged: Judged, metric: str, own_metric: str) -> list[str]:
    notes = []
    if one.signs.learnt_from_both:
        notes.append(
            "Its lists hold pairs of the IID test as often as training pairs: it has seen them, or "
            "it learns nothing by heart."
        )
    counts = one.counts
    for key, what in (
        ("unknown_users", "users"),
        ("unknown_items", "items"),
    ):
        if counts.get(key):
            rows = "rows" if one.kind == "recommendations" else "vectors"
            notes.append(f"{counts[key]:,} {rows} of {what} unknown to train were left out.")
    if counts.get("in_train"):
        notes.append(
            f"{counts['in_train']:,} rows recommend what is in train and were left out, as for "
            "every method."
        )
    if own_metric != metric:
        notes.append(
            f"A quarter of its lists have {counts['length']} items or fewer that count, so it is "
            f"judged by {metric_name(own_metric)}, and so is what it is compared with; longer "
            "lists can be judged further down."
        )
    if counts.get("ordered_by") == "rows":
        notes.append("It has neither ranks nor scores, so rows are taken to come best first.")
    missing = [
        f"{one.without_list[test]:,} of {judged.n_users[test]:,} users of the {name} test"
        for test, name in zip(TESTS, ("IID", "OOD"), strict=True)
        if one.without_list[test]
    ]
    if missing:
        notes.append(f"{' and '.join(missing)} have no list and count as misses.")
    return notes


def verdicts(metric: str, results: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each recommender that the reader has: their own, then the usual one.

    One of which there are signs that it has seen the held-out pairs gets none. For want of the
    usual recommender, the best today of those there are.
    """
    said = []
    outside = [one for result in results for one in result["outside"]]
    for name in dict.fromkeys(one["name"] for one in outside):
        own = [one for one in outside if one["name"] == name]
        if any(one["warnings"] for one in own) or len({one["metric"] for one in own}) > 1:
            continue
        losses = [
            (str(result["phrase"]), _estimate(one["loss"]))
            for result in results
            for one in result["outside"]
            if one["name"] == name
        ]
        said.append(verdict(f"Your recommender {name}", own[0]["metric"], losses))
    usual = [result for result in results if result["usual"].startswith(f"{USUAL}/")]
    subject = "The usual recommender (LightGCN with random negatives)"
    if not usual:
        usual = list(results)
        titles = {row["title"] for r in results for row in r["table"] if row["key"] == r["usual"]}
        subject = titles.pop() if len(titles) == 1 else "The best of the references"
    rows = [
        (str(r["phrase"]), next(row for row in r["table"] if row["key"] == r["usual"]))
        for r in usual
    ]
    said.append(
        verdict(subject, metric, [(phrase, _estimate(row["loss"])) for phrase, row in rows])
    )
    return said


def _estimate(values: Sequence[float | None]) -> Estimate:
    return Estimate(*(float("nan") if value is None else float(value) for value in values))
