"""How far each split of a dataset is from train: the figures of its description."""

from __future__ import annotations

from cnsdiff.data import Dataset
from cnsdiff.diagnostics import Description, describe
from cnsdiff.diagnostics.figures import panels
from cnsdiff.report.document import Block, Figure, Prose, verbatim


def shift_blocks(dataset: Dataset, seed: int) -> list[Block]:
    """Every split of the dataset is read.

    Parameters
    ----------
    dataset
        In which every split has pairs.
    seed
        Of the random divisions behind the levels of chance.

    Raises
    ------
    DataError
        A split has no pairs, or its file is damaged.
    """
    return described_blocks(describe(dataset, seed=seed))


def described_blocks(description: Description) -> list[Block]:
    """The figures of a description, and what is wrong with the dataset."""
    return [
        *(Prose(f"Note: {verbatim(problem)}.") for problem in description.problems),
        *(
            Figure(panel.title, panel.caption, panel.figure, panel.data, small=True)
            for panel in panels(description)
        ),
    ]
