"""The findings under one shift: numbers, and the words that they bear out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from cnsdiff.audit.advice import advice
from cnsdiff.audit.content import WonBack
from cnsdiff.audit.external import Outside
from cnsdiff.audit.judging import TESTS, Choice, Judged, Setting, choose, judge
from cnsdiff.audit.log import Log, Reading, filters_of
from cnsdiff.audit.people import people_records
from cnsdiff.audit.record import (
    FEW_USERS,
    NOT_COMPARABLE,
    AdviceRecord,
    Against,
    AgainstUsual,
    Confidence,
    Dialled,
    DifferenceRecord,
    DistanceRecord,
    NewItemsRecord,
    OutsideRecord,
    Rival,
    Rivals,
    SettingRecord,
    ShiftRecord,
    SignsRecord,
    SizeOfSplit,
    SizeRecord,
    SplitsRecord,
    Test,
    UsersRecord,
    WonBackRecord,
)
from cnsdiff.audit.shifts import Shift
from cnsdiff.audit.suspicion import TOO_GOOD
from cnsdiff.audit.training import KS, METHODS, REFERENCE_SHARE
from cnsdiff.audit.wording import cost_phrase, difference_phrase, lost_phrase
from cnsdiff.base.text import parameter
from cnsdiff.benchmark.grid import PLAIN
from cnsdiff.data import Dataset
from cnsdiff.data.ids import Vocabulary
from cnsdiff.diagnostics import describe
from cnsdiff.display.wording import SPLIT_TITLES, count, listed, metric_title, number, percent
from cnsdiff.environment import rehearse
from cnsdiff.evaluation.anticipation import POWERS_OF_EXPOSURE
from cnsdiff.evaluation.dial import exposure_counts
from cnsdiff.evaluation.significance import holm
from cnsdiff.training.selection import as_configured

#: Fewer validation pairs than this, counted as they weigh, make a choice uncertain.
FEW_PAIRS = 500


def shift_record(
    shift: Shift,
    dataset: Dataset,
    settings: Sequence[Setting],
    outside: Sequence[Outside],
    unfinished: Sequence[str],
    *,
    reading: Reading,
    log: Log,
    metric: str,
    seed: int,
    run: Path,
    drift: SizeRecord | None = None,
) -> ShiftRecord:
    """All that is known of one shift.

    Of what was measured: the ``settings`` of methods that were trained here, the recommenders from
    ``outside``, and the names of methods that the clock left no time for. ``run`` is a directory
    for the commands; ``drift`` is how far the log moves by itself, the size of its shift in time.
    """
    choice = choose(settings, shift.anticipate)
    every = (*settings, *(setting for each in outside for setting in each.settings))
    judged = judge(every, dataset, metric, seed=seed)
    size = _size(dataset, seed)
    table = _table(judged, choice)
    effective_pairs = _effective_pairs(dataset, shift)
    recommendation = advice(
        shift,
        judged,
        choice,
        reading=reading,
        log=log,
        seed=seed,
        run=run,
        served=_served(dataset) if shift.anticipate in POWERS_OF_EXPOSURE else "",
    )
    confidence, why = _confidence(judged, table, recommendation, effective_pairs, unfinished)
    return ShiftRecord(
        name=shift.name,
        title=shift.title,
        phrase=shift.phrase,
        meaning=shift.meaning,
        anticipate=shift.anticipate,
        settings=dict(shift.settings),
        dataset=SplitsRecord(
            name=dataset.name,
            fingerprint=dataset.fingerprint,
            users=dataset.n_users,
            items=dataset.n_items,
            pairs={name: dataset.manifest.splits[name].rows for name in dataset.split_names},
        ),
        size=size,
        n_users=UsersRecord(
            test_iid=judged.n_users["test_iid"], test_ood=judged.n_users["test_ood"]
        ),
        effective_pairs=effective_pairs,
        table=table,
        usual=choice.usual.row,
        recommendation=recommendation,
        confidence=confidence,
        confidence_words=why,
        how_extreme=_how_extreme(size, drift),
        sought=_sought(dataset),
        people=people_records(dataset, _lists(judged, recommendation)),
        outside=[_outside(each, dataset, judged, choice, metric, seed) for each in outside],
        unfinished=list(unfinished),
        limits=_limits(shift, judged, table, size, effective_pairs, unfinished),
    )


def _table(judged: Judged, choice: Choice) -> list[SettingRecord]:
    """A row for each setting, beside the usual recommender on both tests."""
    others = [s for s in judged.settings if s.key != choice.usual.key]
    against: dict[str, dict[Test, AgainstUsual]] = {s.key: {} for s in judged.settings}
    for test in TESTS:
        differences = judged.differences(test, [(s, choice.usual) for s in others])
        adjusted = holm([difference.p_value for difference in differences]).tolist()
        for setting, difference, p_holm in zip(others, differences, adjusted, strict=True):
            against[setting.key][test] = AgainstUsual(
                difference=difference, p=difference.p_value, p_holm=p_holm
            )
    return [
        SettingRecord(
            key=s.key,
            method=s.method,
            selection=s.selection,
            title=s.title,
            validation=s.validation,
            dial=s.dial,
            epochs=s.epochs,
            seconds=s.seconds,
            stopped_by=s.stopped_by,
            against_usual=against[s.key],
            found_iid=_found(s, "test_iid"),
            found_ood=_found(s, "test_ood"),
            coverage=s.catalogue.get("coverage@20"),
            popularity=s.catalogue.get("popularity@20"),
            gini=s.catalogue.get("gini@20"),
            **dict(judged.accuracies(s)),
        )
        for s in judged.settings
        if not s.is_alike or s.selection == PLAIN
    ]


def _found(setting: Setting, test: Test) -> float | None:
    """Share of a test's users with a hit among the first 20."""
    if "recall@20" not in setting.per_user[test].columns:
        return None
    return float(np.mean(setting.values(test, "recall@20") > 0))


def _served(dataset: Dataset) -> str:
    """How the users who were shown items at random differ from all of the log, in a sentence."""
    train = dataset.split("train")
    activity = np.bincount(train.users, minlength=dataset.n_users)
    fans = np.bincount(train.items, minlength=dataset.n_items)
    shown = np.zeros(dataset.n_users, dtype=bool)
    shown[dataset.split("test_ood").users] = True
    theirs = fans[train.items[shown[train.users]]]
    if not len(theirs):
        return ""
    return (
        f" The {int(shown.sum()):,} users who were shown these have {activity[shown].mean():.1f} "
        f"items each in the log, with {theirs.mean():,.0f} users to an item; all users have "
        f"{activity[activity > 0].mean():.1f}, with {fans[train.items].mean():,.0f}."
    )


def _sought(dataset: Dataset) -> float:
    """Mean number of interactions in train of an item that the OOD test's users took."""
    counts = np.bincount(dataset.split("train").items, minlength=dataset.n_items)
    return float(counts[dataset.split("test_ood").items].mean())


def _lists(judged: Judged, advised: AdviceRecord) -> dict[str, pl.DataFrame]:
    """Lists of a few users by the best today and by what is advised."""
    own = {s.row: s.lists for s in judged.settings if s.lists is not None}
    keys = dict.fromkeys((advised.plain, advised.use, advised.expected))
    return {key: own[key] for key in list(keys)[:2] if key in own}


def _effective_pairs(dataset: Dataset, shift: Shift) -> float:
    """Effective number of held-out pairs under the shift's objective."""
    if shift.anticipate == "rehearsal":
        return len(rehearse(dataset).dataset.split("valid"))
    objective = as_configured(
        shift.anticipate,
        shift.selection,
        dataset.split("valid"),
        dataset.split("train").csr(dataset.n_users, dataset.n_items),
        KS,
        exposure_counts(dataset).numpy(),
    )
    return objective.effective_pairs


# --- How large the shift is


def _size(dataset: Dataset, seed: int) -> SizeRecord:
    """Each split's distance from train, beside that of chance alone, and both in words."""
    description = describe(dataset, seed=seed)
    splits = {}
    for name, split in description.splits.items():
        distances = {
            axis: DistanceRecord(
                js=distance.observed.js,
                chance=None if distance.chance is None else distance.chance.js,
            )
            for axis, distance in split.shift.items()
        }
        splits[name] = SizeOfSplit(
            pairs=split.pairs,
            n_users=split.users.present,
            n_items=split.items.present,
            head=split.head,
            deciles=list(split.deciles),
            dropped_unknown=split.dropped_unknown,
            **distances,
        )
    words = _size_words(splits["test_iid"], splits["test_ood"])
    return SizeRecord(splits=splits, words=words, problems=list(description.problems))


def _size_words(iid: SizeOfSplit, ood: SizeOfSplit) -> str:
    if ood.items is None or ood.items.chance is None:
        return ""
    js, chance = ood.items.js, ood.items.chance
    times = js / chance if chance else math.inf
    size = f"Items of the OOD test are {js:.3f} nats from train's, {chance:.3f} by chance alone"
    head = (
        f"{percent(ood.head)} of its pairs are on the fifth of the items that is most popular in "
        f"train, {percent(iid.head)} of the IID test's"
    )
    if times < 1.15:
        return f"{size}: no more shift of items than chance makes in a test of this size. {head}."
    return f"{size}: {'a strong' if times > 2 else 'a weak'} shift of items. {head}."


def _how_extreme(size: SizeRecord, drift: SizeRecord | None) -> str:
    """How large the shift is beside chance, and beside what the log does by itself."""
    ood, iid = size.splits["test_ood"], size.splits["test_iid"]
    if ood.items is None or ood.items.chance is None or not ood.pairs:
        return ""
    if ood.head == 0:
        head = "No pick of the test is among the 20% most popular items"
    else:
        head = f"Of 100 picks of the test {100 * ood.head:.0f} are among the 20% most popular items"
    head += f"; today {100 * iid.head:.0f} of 100 are"
    beyond = _beyond_chance(ood)
    if beyond is None or beyond <= 0:
        return f"No larger than chance makes in a test of this size. {head}."
    its_own = None if drift is None else _beyond_chance(drift.splits["test_ood"])
    if drift is size or its_own is None:
        times = f"{ood.items.js / ood.items.chance:.1f} times what chance makes"
        return f"The items asked for move by {times} in a test of this size. {head}."
    if its_own <= 0:
        return f"Larger than anything this log has done by itself: its items hardly move. {head}."
    ratio = beyond / its_own
    usual = "as far as the newest fifth of this log lies from what came before"
    if ratio < 0.67:
        return f"A mild shift: its items move {ratio:.1f} times {usual}. {head}."
    if ratio < 1.5:
        return f"A shift of the usual size: its items move about {usual}. {head}."
    grade = "An extreme" if ratio >= 4 else "A large"
    return f"{grade} shift: its items move {ratio:.1f} times {usual}. {head}."


def _beyond_chance(split: SizeOfSplit) -> float | None:
    """How far a split's items are from train's, less what chance alone makes."""
    if split.items is None or split.items.chance is None:
        return None
    return split.items.js - split.items.chance


#: Reservations that make a confidence low; with none it is high.
_LOW = 2


def _confidence(
    judged: Judged,
    table: Sequence[SettingRecord],
    advice: AdviceRecord,
    effective_pairs: float,
    unfinished: Sequence[str],
) -> tuple[Confidence, str]:
    """How far the verdict can be trusted, and what speaks against it."""
    reservations = []
    fewest = min(judged.n_users.values())
    if judged.has_few_users:
        return "none", f"A test has {count(fewest, 'user')} only: too few for a verdict."
    if not judged.kept.comparable:
        reservations.append("what is lost cannot be told")
    if effective_pairs < FEW_PAIRS:
        reservations.append(f"few pairs chose ({effective_pairs:,.0f})")
    if unfinished or any(row.stopped_by == "time" for row in table):
        reservations.append("the clock ended or left out trainings")
    ood = next(row for row in table if row.key == advice.use).ood
    if not math.isfinite(ood.low) or ood.half_width > 0.1 * abs(ood.value):
        reservations.append("the interval is wider than ±10%")
    level: Confidence = "low" if len(reservations) >= _LOW else "medium" if reservations else "high"
    told = f"{fewest:,} users or more in each test"
    if reservations:
        return level, f"{told}, but {listed(reservations)}."
    return level, f"{told}, all trained to the end, and enough pairs to choose by."


# --- New items


def new_items_record(log: Log, reading: Reading, cut: float) -> NewItemsRecord | None:
    """How many pairs from the cut on are of items that nobody took before it.

    Counted on all of the log: an item is not new because those who took it were not drawn. Pairs
    are of users known before the cut. ``None`` where no item is new.

    Parameters
    ----------
    log, reading
        With times.
    cut
        In epoch seconds; what comes from it on is later.
    """
    table = log.interactions if log.whole is None else log.whole
    pairs, _ = filters_of(log, reading).clean(table, core=True)
    before, later = pairs.frame.filter(pl.col("timestamp") < cut), pl.col("timestamp") >= cut
    known = pl.col("user").is_in(before["user"].unique().implode())
    held = pairs.frame.filter(later & known)
    fresh = held.filter(~pl.col("item").is_in(before["item"].unique().implode()))
    if not len(fresh):
        return None
    ids = fresh["item"].unique(maintain_order=True)
    table_of = log.source.features.get("item_features")
    told = 0
    if table_of is not None:
        numbers = Vocabulary(ids.alias("id")).encode(table_of["item"])
        told = len(np.unique(numbers[numbers >= 0]))
    one = len(ids) == 1
    words = (
        f"{percent(len(fresh) / len(held))} of the {len(held):,} later pairs are on "
        f"{count(len(ids), 'item')} that nobody had taken before the cut. A model that learns "
        f"from interactions alone has {'it' if one else 'them'} in no list, so that much is lost "
        "at once, and all other numbers leave it out."
    )
    if table_of is None:
        words += (
            f" If something is known of the items, give it with {parameter('item_features', ...)}: "
            f"{parameter('content', 'auto')} in training then learns from it."
        )
    elif not told:
        words += " The table of features that was given has none of them."
    else:
        words += (
            f" {told:,} of them {'has' if told == 1 else 'have'} features, from which "
            f"{parameter('content', 'auto')} in training learns where items held out say that it "
            "helps."
        )
    return NewItemsRecord(
        pairs=len(held),
        new_pairs=len(fresh),
        items=len(ids),
        with_features=told,
        words=words,
    )


def with_won_back(
    record: NewItemsRecord, found: WonBack | str, setting: Setting, metric: str, command: str
) -> NewItemsRecord:
    """What content wins back, or why that is not known, beside how much is lost."""
    if isinstance(found, str):
        return record.model_copy(update={"words": f"{record.words} {found}"})
    brings = DifferenceRecord.of(found.difference)
    won_back = WonBackRecord(
        title=setting.title,
        used=found.used,
        without=found.without,
        content=found.content,
        of_new=found.of_new,
        brings=brings,
        n_users=found.difference.n,
    )
    of_all = f"In one list of all items, for all later pairs, {setting.title} "
    if not found.used:
        words = (
            f"{of_all}has {metric_title(metric)} {number(found.without)}, and items held out of "
            "training were told no better from their features, so content was left out."
        )
    else:
        words = (
            f"{of_all}has {metric_title(metric)} {number(found.without)} without features and "
            f"{number(found.content)} with them: {difference_phrase(found.difference)}. Of new "
            f"items by themselves it has {number(found.of_new)}."
        )
    return record.model_copy(
        update={
            "won_back": won_back,
            "command": command if brings.sign > 0 else None,
            "words": f"{record.words} {words}",
        }
    )


# --- Caveats to show with a shift's results


def _limits(
    shift: Shift,
    judged: Judged,
    table: Sequence[SettingRecord],
    size: SizeRecord,
    effective_pairs: float,
    unfinished: Sequence[str],
) -> list[str]:
    limits = [
        f"The {SPLIT_TITLES[test]} has {count(judged.n_users[test], 'user')} only, and fewer than "
        f"{FEW_USERS} show nothing: there are no intervals."
        for test in TESTS
        if judged.n_users[test] < FEW_USERS
    ]
    if not judged.kept.comparable:
        limits.append(NOT_COMPARABLE)
    if effective_pairs < FEW_PAIRS:
        limits.append(
            f"For this shift the validation pairs weigh as much as {effective_pairs:,.0f} equal "
            "ones, so that the choice is uncertain."
        )
    ood = size.splits["test_ood"]
    dropped = ood.dropped_unknown or 0
    if dropped > ood.pairs:
        limits.append(
            f"{dropped:,} of {dropped + ood.pairs:,} pairs of the OOD test are of users or items "
            "that train does not know and were left out: what is said holds for the known ones "
            "alone."
        )
    cut = sorted({row.method for row in table if row.stopped_by == "time"})
    if cut:
        names = " and ".join(METHODS[name].title for name in cut)
        limits.append(
            f"The clock ended the training of {names}: with a longer budget the numbers may rise."
        )
    measured = {row.method for row in table}
    for name in unfinished:
        why = "the time was up"
        if METHODS[name].preset is None:
            why = f"references take {percent(REFERENCE_SHARE)} of the budget at most"
        part = " set for this shift" if name in measured else ""
        limits.append(f"{METHODS[name].title}{part} was left out: {why}.")
    if shift.anticipate == "rehearsal":
        limits.append(
            "Intervals are over users, of this one stretch of time; the next may differ by more."
        )
    return limits + size.problems


# --- Recommenders that were not trained here


def _outside(
    outside: Outside, dataset: Dataset, judged: Judged, choice: Choice, metric: str, seed: int
) -> OutsideRecord:
    """Where its lists are too short for the metric, all are judged by a shorter one."""
    own_metric = f"{metric.partition('@')[0]}@{outside.k}"
    if own_metric != metric:
        judged = judge(judged.settings, dataset, own_metric, seed=seed)
    rivals = {"expected": choice.expected, "plain": choice.plain, "usual": choice.usual}
    against = {}
    for test in TESTS:
        differences = judged.differences(test, [(outside.as_given, s) for s in rivals.values()])
        beside = {}
        for (name, setting), difference in zip(rivals.items(), differences, strict=True):
            own = judged.accuracies(setting)
            beside[name] = Rival(
                **dict(DifferenceRecord.of(difference)),
                title=setting.title,
                value=own.ood if test == "test_ood" else own.iid,
            )
        against[test] = Rivals(**beside)
    return OutsideRecord(
        name=outside.name,
        kind=outside.kind,
        metric=own_metric,
        counts=outside.counts,
        without_list=dict(outside.without_list),
        of_this_shift=outside.of_this_shift,
        against=Against(**against),
        dialled=_dialled(outside, judged),
        signs=SignsRecord(
            train=outside.signs.train,
            held_out=outside.signs.held_out,
            ratio=outside.signs.ratio,
            n_users=outside.signs.n_users,
        ),
        words=_words(outside, judged, choice, Against(**against), own_metric),
        caveats=_caveats(outside),
        warnings=_warnings(outside, judged, choice),
        notes=_notes(outside, judged, metric, own_metric),
        **dict(judged.accuracies(outside.as_given)),
    )


def _dialled(outside: Outside, judged: Judged) -> Dialled | None:
    """Of vectors: what reading them at the dial for this shift brings and costs."""
    turned = outside.settings[-1]
    if turned is outside.as_given or turned.dial is None:
        return None
    brings = judged.difference("test_ood", turned, outside.as_given)
    costs = judged.difference("test_iid", turned, outside.as_given)
    return Dialled(
        dial=turned.dial,
        brings=DifferenceRecord.of(brings),
        costs=DifferenceRecord.of(costs),
        words=(
            f"Its vectors read at dial {turned.dial:g}, which validation picks for this shift: "
            f"{difference_phrase(brings)} under the shift; today it {cost_phrase(costs)}."
        ),
        **dict(judged.accuracies(turned)),
    )


def _words(outside: Outside, judged: Judged, choice: Choice, against: Against, metric: str) -> str:
    """Its metrics and loss, beside those of the chosen setting."""
    own = judged.accuracies(outside.as_given)
    beside = difference_phrase(against.test_ood.expected.difference)
    today = difference_phrase(against.test_iid.plain.difference)
    return (
        f"{outside.name} reaches {number(own.iid.value)} of {metric_title(metric)} today and "
        f"{number(own.ood.value)} under the shift: it would {lost_phrase(own.lost_matched)}. "
        f"Under the shift, beside {choice.expected.title}: {beside}. Today, beside "
        f"{choice.plain.title}: {today}."
    )


def _caveats(outside: Outside) -> list[str]:
    """Remarks on the recommender that hold whatever was measured."""
    caveats = [
        "What it was trained on cannot be known from here; only what was made from a shift's train "
        "file alone is judged fairly."
    ]
    if not outside.of_this_shift:
        caveats.append(
            f"One {'file' if outside.kind == 'recommendations' else 'set of vectors'} serves all "
            "shifts, and each shift holds out other pairs: a system trained on the whole log has "
            "seen them all."
        )
    return caveats


def _warnings(outside: Outside, judged: Judged, choice: Choice) -> list[str]:
    """Signs that the recommender has seen the pairs that judge it."""
    signs = outside.signs
    if signs.left_out:
        return [
            f"{outside.name} has probably seen the held-out pairs and leaves them out as known: "
            "its lists hold fewer of a user's own held-out items than strangers' lists do. Its "
            "numbers are then too low, and say nothing."
        ]
    rivals = (choice.plain, choice.usual, choice.expected)
    best = max(rivals, key=lambda setting: judged.accuracies(setting).iid.value)
    over = judged.difference("test_iid", outside.as_given, best)
    mine, theirs = judged.accuracies(outside.as_given).iid, judged.accuracies(best).iid.value
    if signs.learnt_from_both and over.sign > 0:
        return [
            f"{outside.name} has probably seen the held-out pairs: its lists hold those of the IID "
            f"test as often as those it was to learn from ({percent(signs.held_out.value)} and "
            f"{percent(signs.train.value)} beyond chance), and it is better there than all that "
            "was trained here. Its numbers are then too good."
        ]
    if mine.low > TOO_GOOD * theirs:
        return [
            f"{outside.name} is more than {TOO_GOOD:g} times as accurate on the IID test as "
            f"anything trained here ({number(mine.value)} and {number(theirs)}): it is either much "
            "better, or has seen the held-out pairs."
        ]
    return []


def _notes(outside: Outside, judged: Judged, metric: str, own_metric: str) -> list[str]:
    notes, counts = [], outside.counts
    if outside.signs.learnt_from_both:
        notes.append(
            "Its lists hold pairs of the IID test as often as training pairs: it has seen them, or "
            "it learns nothing by heart."
        )
    rows = "rows" if outside.kind == "recommendations" else "vectors"
    for side in ("users", "items"):
        if unknown := counts.get(f"unknown_{side}"):
            notes.append(f"{unknown:,} {rows} of {side} unknown to train were left out.")
    if in_train := counts.get("in_train"):
        notes.append(
            f"{in_train:,} rows recommend what is in train and were left out, as for every method."
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
        f"{outside.without_list[test]:,} of {judged.n_users[test]:,} users of the "
        f"{SPLIT_TITLES[test]}"
        for test in TESTS
        if outside.without_list[test]
    ]
    if missing:
        notes.append(f"{' and '.join(missing)} have no list and count as misses.")
    return notes
