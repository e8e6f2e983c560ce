"""The report of datasets: what is in them, and how far each split is from train."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cnsdiff.data import load_dataset
from cnsdiff.diagnostics import Description, describe
from cnsdiff.diagnostics.figures import panels
from cnsdiff.display.tables import Column, Table
from cnsdiff.display.wording import SPLIT_TITLES, number
from cnsdiff.report.document import Block, Document, Facts, Figure, Prose, Section, verbatim

#: From so many times the distance that chance makes on, a split is called shifted.
BEYOND_CHANCE = 3.0


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
    title = "Shift: " + ", ".join(dict.fromkeys(each.name for each in descriptions))
    if len(descriptions) == 1:
        (data,) = descriptions
        numbers = [_facts(data), _counts(data), _distances([data]), *_overlaps(data)]
        sections = [Section("Shift", shift_blocks(data)), Section("Numbers", numbers)]
        return Document(title, _verdict(data), sections)
    sections = [Section("Comparison", [_distances(descriptions)])]
    taken = {"Comparison"}
    for data in descriptions:
        name = f"{data.name} ({data.scenario})"
        at = 2
        while name in taken:  # the same name may have been prepared twice
            name, at = f"{data.name} ({data.scenario}) {at}", at + 1
        taken.add(name)
        sections.append(Section(name, [_facts(data), *shift_blocks(data), _counts(data)]))
    verdict = " ".join(_verdict(data) for data in descriptions[:2])
    more = len(descriptions) - 2
    return Document(title, verdict + (f" And {more} more." if more > 0 else ""), sections)


def shift_blocks(data: Description) -> list[Block]:
    """The figures of a description, and what is wrong with the dataset."""
    notes = [Prose(f"Note: {verbatim(problem)}.") for problem in data.problems]
    figures = [
        Figure(panel.title, panel.caption, panel.figure, panel.data, small=True)
        for panel in panels(data)
    ]
    return [*notes, *figures]


def _verdict(data: Description) -> str:
    """Which split is shifted most, on which axis, and whether chance could have done it."""
    distances = [
        (shift.observed.js, shift.chance.js, axis, name)
        for name, split in data.splits.items()
        for axis, shift in split.shift.items()
        if shift.chance is not None
    ]
    if not distances:
        return f"{data.name} has no held-out split, so there is no shift to measure."
    beyond = [each for each in distances if each[0] > BEYOND_CHANCE * each[1]]
    if not beyond:
        return f"No split of {data.name} is further from train than chance could make it."
    # Relative to chance: the axes have other numbers of categories, and so other distances.
    js, chance, axis, name = max(beyond, key=lambda each: each[0] / max(each[1], 1e-9))
    return (
        f"In {data.name} the {SPLIT_TITLES[name]} is shifted most in its {axis}: "
        f"{js / max(chance, 1e-9):,.0f} times as far from train as chance makes it "
        f"(Jensen–Shannon {number(js, 3)} to {number(chance, 3)})."
    )


def _facts(data: Description) -> Facts:
    pairs = [f"{SPLIT_TITLES[name]} {split.pairs:,}" for name, split in data.splits.items()]
    return Facts(
        [
            ("dataset", data.name),
            ("scenario", data.scenario),
            ("users", f"{data.n_users:,}"),
            ("items", f"{data.n_items:,}"),
            ("pairs", ", ".join(pairs)),
            ("fingerprint", data.fingerprint),
        ]
    )


def _counts(data: Description) -> Table:
    return Table.of(
        "What is in each split",
        ["split"],
        [
            Column("pairs", "pairs", 0),
            Column("users", "users", 0),
            Column("items", "items", 0),
            Column("per_user", "pairs per user", 1),
            Column("per_item", "pairs per item", 1),
            Column("gini", "Gini of the items", 3),
            Column("effective_items", "effective items", 0),
            Column("head", "on train's top 20%", 1, percent=True, signed=False),
            Column("dropped", "dropped", 0),
        ],
        [
            (
                [SPLIT_TITLES[name]],
                [
                    split.pairs,
                    split.users.present,
                    split.items.present,
                    split.users.mean,
                    split.items.mean,
                    split.items.gini,
                    split.items.effective,
                    split.head,
                    split.dropped_unknown,
                ],
            )
            for name, split in data.splits.items()
        ],
        "effective items: as diverse as so many equally frequent ones",
        "on train's top 20%: share of the pairs on the items most popular in train",
        "dropped: pairs of users or items that train does not have",
    )


def _distances(descriptions: Sequence[Description]) -> Table:
    several = len(descriptions) > 1
    measures = {"js": "JS", "tv": "TV", "wasserstein": "W1"}
    columns, rows = [], []
    for title in measures.values():
        columns += [Column(title.lower(), title), Column(f"{title.lower()}_chance", "by chance")]
    for data in descriptions:
        for name, split in data.splits.items():
            for axis, shift in split.shift.items():
                labels = [*([data.name] if several else []), SPLIT_TITLES[name], axis]
                values = [
                    getattr(distances, measure, None)
                    for measure in measures
                    for distances in (shift.observed, shift.chance)
                ]
                rows.append((labels, values))
    return Table.of(
        "Distance from train",
        [*(["dataset"] if several else []), "split", "of"],
        columns,
        rows,
        "JS: Jensen–Shannon divergence in nats, 0 to 0.693; TV: total variation, 0 to 1",
        "W1: Wasserstein distance, of items and users in quantiles of train's counts, of time in "
        "days",
        "by chance: the mean of random divisions of the same pairs into equally large parts",
    )


def _overlaps(data: Description) -> list[Block]:
    if not data.overlaps:
        return []
    columns = [
        Column("pairs", "pairs", 0),
        Column("users", "users (Jaccard)", 3),
        Column("items", "items (Jaccard)", 3),
    ]
    rows = [
        (
            [SPLIT_TITLES[both.left], SPLIT_TITLES[both.right]],
            [both.pairs, both.users_jaccard, both.items_jaccard],
        )
        for both in data.overlaps
    ]
    return [Table.of("In both of two splits", ["split", "and"], columns, rows)]
