"""The report of datasets: what is in them, and how far each split is from train."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cnsdiff.data import load_dataset
from cnsdiff.diagnostics import Description, describe
from cnsdiff.diagnostics.description import SplitDescription
from cnsdiff.display.tables import Cell, Column, Table
from cnsdiff.display.wording import SPLIT_TITLES
from cnsdiff.report.document import Block, Document, Facts, Section
from cnsdiff.report.shift import described_blocks

#: From so many times the distance that chance makes on, a split is called shifted.
BEYOND_CHANCE = 3.0
_NAN = float("nan")


def dataset_document(path: Path, *, seed: int = 0) -> Document:
    """The report of a dataset directory; every split is read.

    Raises
    ------
    DataError
        It is damaged, or a split has no pairs.
    """
    return descriptions_document([describe(load_dataset(path), seed=seed)])


def descriptions_document(descriptions: Sequence[Description]) -> Document:
    """The report of one description, or of several side by side."""
    names = list(dict.fromkeys(one.name for one in descriptions))
    title = "Shift: " + ", ".join(names)
    if len(descriptions) == 1:
        (one,) = descriptions
        sections = [
            Section("Shift", described_blocks(one)),
            Section("Numbers", [_facts(one), _counts(one), _distances([one]), *_overlaps(one)]),
        ]
        return Document(title, _verdict(one), sections)
    sections = [Section("Comparison", [_distances(descriptions)])]
    taken = {"Comparison"}
    for one in descriptions:
        name = f"{one.name} ({one.scenario})"
        at = 2
        while name in taken:  # the same name may have been prepared twice
            name, at = f"{one.name} ({one.scenario}) {at}", at + 1
        taken.add(name)
        sections.append(Section(name, [_facts(one), *described_blocks(one), _counts(one)]))
    verdict = " ".join(_verdict(one) for one in descriptions[:2])
    more = len(descriptions) - 2
    return Document(title, verdict + (f" And {more} more." if more > 0 else ""), sections)


def _verdict(one: Description) -> str:
    """Which split is shifted most, on which axis, and whether chance could have done it."""
    found = [
        (shift.observed.js, shift.chance.js, axis, name)
        for name, split in one.splits.items()
        for axis, shift in split.shift.items()
        if shift.chance is not None
    ]
    if not found:
        return f"{one.name} has no held-out split, so there is no shift to measure."
    beyond = [each for each in found if each[0] > BEYOND_CHANCE * each[1]]
    if not beyond:
        return f"No split of {one.name} is further from train than chance could make it."
    # Relative to chance: the axes have other numbers of categories, and so other distances.
    js, chance, axis, name = max(beyond, key=lambda each: each[0] / max(each[1], 1e-9))
    return (
        f"In {one.name} the {SPLIT_TITLES[name]} is shifted most in its {axis}: "
        f"{js / max(chance, 1e-9):,.0f} times as far from train as chance makes it "
        f"(Jensen–Shannon {js:.3f} to {chance:.3f})."
    )


def _facts(one: Description) -> Facts:
    splits = ", ".join(
        f"{SPLIT_TITLES[name]} {split.pairs:,}" for name, split in one.splits.items()
    )
    return Facts(
        [
            ("dataset", one.name),
            ("scenario", one.scenario),
            ("users", f"{one.n_users:,}"),
            ("items", f"{one.n_items:,}"),
            ("pairs", splits),
            ("fingerprint", one.fingerprint),
        ]
    )


def _counts(one: Description) -> Table:
    columns = (
        Column("pairs", "pairs", 0),
        Column("users", "users", 0),
        Column("items", "items", 0),
        Column("per_user", "pairs per user", 1),
        Column("per_item", "pairs per item", 1),
        Column("gini", "Gini of the items", 3),
        Column("effective_items", "effective items", 0),
        Column("head", "on train's top 20%", 1, percent=True, signed=False),
        Column("dropped", "dropped", 0),
    )

    def cells(split: SplitDescription) -> tuple[Cell, ...]:
        values = (
            split.pairs,
            split.users.present,
            split.items.present,
            split.users.mean,
            split.items.mean,
            split.items.gini,
            split.items.effective,
            split.head,
            _NAN if split.dropped_unknown is None else split.dropped_unknown,
        )
        return tuple(Cell(float(value)) for value in values)

    return Table(
        "What is in each split",
        ("split",),
        columns,
        tuple(((SPLIT_TITLES[name],), cells(split)) for name, split in one.splits.items()),
        (
            "effective items: as diverse as so many equally frequent ones",
            "on train's top 20%: share of the pairs on the items most popular in train",
            "dropped: pairs of users or items that train does not have",
        ),
    )


def _distances(descriptions: Sequence[Description]) -> Table:
    single = len(descriptions) == 1
    rows = [
        (
            (*(() if single else (one.name,)), SPLIT_TITLES[name], axis),
            tuple(
                Cell(_NAN if value is None else float(value))
                for value in (
                    shift.observed.js,
                    None if shift.chance is None else shift.chance.js,
                    shift.observed.tv,
                    None if shift.chance is None else shift.chance.tv,
                    shift.observed.wasserstein,
                    None if shift.chance is None else shift.chance.wasserstein,
                )
            ),
        )
        for one in descriptions
        for name, split in one.splits.items()
        for axis, shift in split.shift.items()
    ]
    return Table(
        "Distance from train",
        (*(() if single else ("dataset",)), "split", "of"),
        (
            Column("js", "JS"),
            Column("js_chance", "by chance"),
            Column("tv", "TV"),
            Column("tv_chance", "by chance"),
            Column("w1", "W1"),
            Column("w1_chance", "by chance"),
        ),
        tuple(rows),
        (
            "JS: Jensen–Shannon divergence in nats, 0 to 0.693; TV: total variation, 0 to 1",
            "W1: Wasserstein distance, of items and users in quantiles of train's counts, of time "
            "in days",
            "by chance: the mean of random divisions of the same pairs into equally large parts",
        ),
    )


def _overlaps(one: Description) -> list[Block]:
    if not one.overlaps:
        return []
    return [
        Table(
            "In both of two splits",
            ("split", "and"),
            (
                Column("pairs", "pairs", 0),
                Column("users", "users (Jaccard)", 3),
                Column("items", "items (Jaccard)", 3),
            ),
            tuple(
                (
                    (SPLIT_TITLES[both.left], SPLIT_TITLES[both.right]),
                    (Cell(both.pairs), Cell(both.users_jaccard), Cell(both.items_jaccard)),
                )
                for both in one.overlaps
            ),
        )
    ]
