"""The trade of the dial: accuracy on either test as popularity counts for less or for more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from cnsdiff.data import Dataset, Split
from cnsdiff.display.wording import SPLIT_TITLES, metric_title
from cnsdiff.evaluation import EmbeddingScorer, exposure_score, readings
from cnsdiff.evaluation.dial import exposure_counts, in_words
from cnsdiff.recommender.config import Config
from cnsdiff.recommender.embedding_model import EmbeddingModel
from cnsdiff.report.accuracy import Measured
from cnsdiff.report.charts import SPLITS, chart, mark_x, method_styles, ring
from cnsdiff.report.document import Block, Figure, Prose
from cnsdiff.training.selection import as_configured, some_users

#: Where the dial is read, besides the one that was chosen.
DIALS = (-4.0, -2.0, -1.0, -0.5, -0.25, -0.1, 0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0)
#: Users of each split whose lists are read at every dial.
USERS = 1_000
_OWN = "this run"

#: By split and dial, the value of each metric.
Readings = dict[str, dict[float, dict[str, float]]]


def dial_blocks(
    model: EmbeddingModel,
    config: Config,
    dataset: Dataset,
    held_out: Mapping[str, Split],
    references: Sequence[Measured],
    metric: str,
) -> list[Block]:
    """The frontier between the tests, and each measure along the dial.

    Parameters
    ----------
    model
        Its embeddings; the dial is turned on the scores as trained.
    config
        What chose its dial.
    dataset
        With the splits and the exposure.
    held_out
        The tests, to describe; nothing is chosen by them.
    references
        Measured on the same tests, for comparison; they have no dial.
    metric
        With its cut-off.
    """
    scorer = EmbeddingScorer(model.user_embeddings, model.item_embeddings)
    exposure = exposure_score(dataset)
    gammas, ks = tuple(sorted({*DIALS, model.dial})), config.evaluation.ks
    tests = {split: some_users(pairs, USERS) for split, pairs in held_out.items()}
    values: Readings = {
        split: readings(scorer, exposure, pairs, model.train, gammas=gammas, ks=ks)
        for split, pairs in tests.items()
    }
    # What chose the dial: validation, as training expected the shift.
    training = config.training
    if "valid" in dataset.split_names and training.selection_split == "valid":
        valid = some_users(dataset.split("valid"), USERS)
        expected = []
        if (shift := training.anticipated) is not None:
            counts = exposure_counts(dataset).numpy()
            expected = [as_configured(shift, training, valid, model.train, ks, counts)]
        values["valid"] = readings(
            scorer, exposure, valid, model.train, gammas=gammas, ks=ks, anticipations=expected
        )
    blocks: list[Block] = [Prose(_choice(model.dial, config))]
    if set(held_out) == {"test_iid", "test_ood"}:
        blocks.append(_frontier(values, tests, references, model.dial, metric))
    blocks.append(_along(values, model.dial, training.selection_metrics[0], metric))
    return blocks


def _choice(dial: float, config: Config) -> str:
    training = config.training
    selecting = metric_title(training.selection_metrics[0])
    how = {
        "auto": f"It was chosen on validation alone, by **{selecting}**",
        "off": "It was switched off when training",
    }.get(str(training.dial), "It was fixed when training")
    return (
        "The dial adds a share of an item's exposure to every score: below 0 popularity counts "
        "for less than in training, above 0 for more. One training serves all of it. "
        f"This model is read at **{in_words(dial)}**. {how}; the curves below describe what the "
        "tests would have shown, and chose nothing. Picking a dial from them would be picking on "
        "the test."
    )


def _frontier(
    values: Readings,
    tests: Mapping[str, Split],
    references: Sequence[Measured],
    dial: float,
    metric: str,
) -> Figure:
    title = metric_title(metric)
    gammas = list(values["test_iid"])
    iid, ood = (
        [values[split][gamma][metric] for gamma in gammas] for split in ("test_iid", "test_ood")
    )
    # The references on the same users.
    points = {
        reference.name: tuple(
            _mean_of(reference, split, tests[split], metric) for split in ("test_iid", "test_ood")
        )
        for reference in references
    }
    styles = method_styles([_OWN, *points])
    figure = chart(x=f"IID {title}", y=f"OOD {title}", height=440)
    figure.add_scatter(
        x=iid,
        y=ood,
        mode="lines+markers",
        name=f"{_OWN}, by its dial",
        marker={**styles[_OWN].marker, "size": 6},
        line=styles[_OWN].line,
        text=[f"dial {gamma:g}" for gamma in gammas],
        hovertemplate="%{text}: IID %{x:.4f}, OOD %{y:.4f}<extra></extra>",
    )
    for gamma in {gammas[0], -1.0, 0.0, 1.0, gammas[-1]} - {dial}:
        at = gammas.index(gamma)
        figure.add_annotation(
            x=iid[at],
            y=ood[at],
            text=f"{gamma:g}",
            showarrow=False,
            xanchor="left",
            xshift=6,
            yshift=-9,
        )
    at = gammas.index(dial)
    figure.add_scatter(
        x=[iid[at]],
        y=[ood[at]],
        mode="markers+text",
        name="the chosen dial",
        text=[f"chosen: {dial:g}"],
        # Away from the edge, which would cut it on a narrow screen.
        textposition="top left" if 2 * iid[at] > max(iid) else "top right",
        marker=ring(styles[_OWN].colour),
        hoverinfo="skip",
    )
    for name, (x, y) in points.items():
        figure.add_scatter(
            x=[x], y=[y], mode="markers", name=name, marker={**styles[name].marker, "size": 11}
        )
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(rangemode="tozero")
    n_users = {split: np.unique(pairs.users).size for split, pairs in tests.items()}
    of_users = " and ".join(f"{n:,} users of the {SPLIT_TITLES[s]}" for s, n in n_users.items())
    return Figure(
        "The frontier between the two tests",
        f"{title} on either test as the dial turns (numbers along the line). Further right is "
        f"better today, further up better after the shift. Of {of_users}.",
        figure,
        pl.DataFrame(
            [(_OWN, gamma, x, y) for gamma, x, y in zip(gammas, iid, ood, strict=True)]
            + [(name, None, x, y) for name, (x, y) in points.items()],
            schema={"method": pl.String, "dial": pl.Float64, "iid": pl.Float64, "ood": pl.Float64},
            orient="row",
        ),
    )


def _along(values: Readings, dial: float, selecting: str, metric: str) -> Figure:
    figure = chart(x="dial", y="share of its own best")
    gammas = list(next(iter(values.values())))
    columns: dict[str, Any] = {"dial": gammas}
    for split, by_dial in values.items():
        own = selecting if split == "valid" else metric
        reached = columns[f"{split}/{own}"] = np.array([each[own] for each in by_dial.values()])
        best = reached.max()
        title = SPLIT_TITLES[split]
        # Evenly spaced dials: most of what happens, happens around 0.
        figure.add_scatter(
            x=list(range(len(gammas))),
            y=reached / best if best else reached,
            mode="lines+markers",
            name=f"{title}, {metric_title(own)}" if split == "valid" else title,
            marker={**SPLITS[split].marker, "size": 7},
            line=SPLITS[split].line,
        )
    mark_x(figure, gammas.index(dial), f"chosen: {dial:g}")
    figure.update_xaxes(
        tickmode="array", tickvals=list(range(len(gammas))), ticktext=[f"{g:g}" for g in gammas]
    )
    figure.update_yaxes(tickformat=".0%", rangemode="tozero")
    return Figure(
        "Along the dial",
        "What selected the dial, and what each test would have shown. Where the curve of "
        "validation peaks near that of the OOD test, the anticipated shift was the one that came.",
        figure,
        pl.DataFrame(columns),
    )


def _mean_of(model: Measured, split: str, pairs: Split, metric: str) -> float:
    """Over the users of ``pairs``, some of those of the split."""
    users = pl.Series(np.unique(pairs.users))
    own = model.per_user(split).filter(pl.col("user").is_in(users.implode()))
    return float(own[metric].to_numpy().mean())
