"""What is said of a recommender that we did not train: its numbers, words and warnings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cnsdiff.audit.external import Outside
from cnsdiff.audit.judging import TESTS, Choice, Judged, difference_dict, from_list, judge, to_list
from cnsdiff.audit.suspicion import TOO_GOOD
from cnsdiff.audit.wording import cost_phrase, difference_phrase, loss_phrase
from cnsdiff.data import Dataset
from cnsdiff.display.wording import SPLIT_TITLES, metric_title, number, percent
from cnsdiff.evaluation.kept import lost


def external_result(
    one: Outside, dataset: Dataset, judged: Judged, choice: Choice, metric: str, seed: int
) -> dict[str, Any]:
    """All that is said of one recommender that we did not train, under one shift.

    Parameters
    ----------
    one
        What was measured of it.
    dataset
        The splits of the shift.
    judged, choice
        All settings on both tests, its own among them, and what validation chose of ours.
    metric, seed
        Of the audit; where its lists are too short for the metric, it is judged by a shorter one.
    """
    own_metric = f"{metric.partition('@')[0]}@{one.k}"
    here = judged
    if own_metric != metric:
        here = judge(judged.settings, dataset, own_metric, seed=seed)
    given = one.settings[0]
    rivals = {"expected": choice.expected, "plain": choice.plain, "usual": choice.usual}
    against: dict[str, Any] = {}
    for test in TESTS:
        differences = here.differences(test, [(given, rival) for rival in rivals.values()])
        against[test] = {
            name: {
                **difference_dict(difference),
                "title": rival.title,
                "value": here.estimates(rival)["ood" if test == "test_ood" else "iid"],
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
            "brings": difference_dict(ood),
            "costs": difference_dict(iid),
            "words": (
                f"Its vectors read at dial {turned.dial:g}, which validation picks for this shift: "
                f"{difference_phrase(ood)} under the shift; today it "
                f"{cost_phrase(iid)}."
            ),
            **here.estimates(turned),
        }
    return {
        "name": one.name,
        "kind": one.kind,
        "metric": own_metric,
        "counts": one.counts,
        "without_list": dict(one.without_list),
        "of_this_shift": one.of_this_shift,
        **here.estimates(given),
        "against": against,
        "dialled": dialled,
        "signs": {
            "train": to_list(one.signs.train),
            "held_out": to_list(one.signs.held_out),
            "ratio": to_list(one.signs.ratio),
            "n_users": one.signs.n_users,
        },
        "words": _words(one, here, choice, against, own_metric),
        "caveats": _caveats(one),
        "warnings": _warnings(one, here, choice),
        "notes": _notes(one, here, metric, own_metric),
    }


def _words(
    one: Outside,
    judged: Judged,
    choice: Choice,
    against: Mapping[str, Mapping[str, Any]],
    metric: str,
) -> str:
    """What it reaches and loses, and what the chosen setting reaches beside it."""
    at = judged.at(one.settings[0])
    found = judged.kept
    loss = loss_phrase(lost(found.kept[at]))
    beside = from_list(against["test_ood"]["expected"]["difference"])
    today = from_list(against["test_iid"]["plain"]["difference"])
    return (
        f"{one.name} reaches {number(found.iid[at].value)} of {metric_title(metric)} today and "
        f"{number(found.ood[at].value)} under the shift: it would {loss}. "
        f"Under the shift, beside {choice.expected.title}: {difference_phrase(beside)}. Today, "
        f"beside {choice.plain.title}: {difference_phrase(today)}."
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
    values = judged.kept.iid
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
            f"judged by {metric_title(own_metric)}, and so is what it is compared with; longer "
            "lists can be judged further down."
        )
    if counts.get("ordered_by") == "rows":
        notes.append("It has neither ranks nor scores, so rows are taken to come best first.")
    missing = [
        f"{one.without_list[test]:,} of {judged.n_users[test]:,} users of the {SPLIT_TITLES[test]}"
        for test in TESTS
        if one.without_list[test]
    ]
    if missing:
        notes.append(f"{' and '.join(missing)} have no list and count as misses.")
    return notes
