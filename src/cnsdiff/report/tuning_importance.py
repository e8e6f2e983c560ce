"""Which of the settings that a study searched matter."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from cnsdiff.display.palette import SPLITS
from cnsdiff.display.wording import count
from cnsdiff.report.charts import chart
from cnsdiff.report.document import Block, Figure, Prose, verbatim
from cnsdiff.report.tuning_trials import STYLES
from cnsdiff.tuning.importance import LEAST_TRIALS
from cnsdiff.tuning.study import Importances, Study

#: With fewer trials for each setting, the shares are rough.
_ENOUGH = 5


def importance(study: Study) -> Iterator[Block]:
    found = study.importances
    if found is None:
        yield Prose(
            f"Nothing can be said of which settings matter: {LEAST_TRIALS} completed trials are "
            f"needed for that, {study.count('completed')} are there"
            + (
                ", and they are all alike."
                if study.count("completed") >= LEAST_TRIALS
                else ". The same command with more `--trials` goes on."
            )
        )
        return
    yield _shares(found)
    told = (
        "fANOVA: a random forest is fitted to the values of the completed trials over the space "
        "searched, and its variance is divided among the settings, what two of them do together "
        "left out. There are ten forests, each of four fifths of the trials: the bar is their "
        "mean, and the whisker is where eight of the ten lie."
    )
    yield Prose(told)
    few = found.n_trials < _ENOUGH * len(found.shares)
    if found.leader is None or few:
        counted = f"{found.n_trials} completed trials for {count(len(found.shares), 'setting')}"
        order = (
            "which setting comes first depends on which trials are left out"
            if found.leader is None
            else f"that {verbatim(found.leader)} comes first is settled, its share is not"
        )
        yield Prose(f"**These shares are rough**: there are {counted}, and {order}.")


def _shares(found: Importances) -> Figure:
    keys = list(found.shares)[::-1]
    shares = [found.shares[key] for key in keys]
    figure = chart(x="share of the differences", height=110 + 36 * len(keys))
    figure.add_bar(
        x=[one.share for one in shares],
        y=keys,
        orientation="h",
        marker={"color": STYLES["completed"].colour},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [max(one.high - one.share, 0) for one in shares],
            "arrayminus": [max(one.share - one.low, 0) for one in shares],
            "thickness": 1.5,
            "width": 4,
            "color": SPLITS["train"].colour,
        },
        hovertemplate="%{y}: %{x:.0%}<extra></extra>",
        showlegend=False,
    )
    figure.update_xaxes(tickformat=".0%", rangemode="tozero")
    figure.update_yaxes(automargin=True, showgrid=False)
    rows = [(key, one.share, one.low, one.high) for key, one in found.shares.items()]
    return Figure(
        "Which settings matter",
        f"What each setting accounts for of the differences between {found.n_trials} completed "
        "trials.",
        figure,
        pl.DataFrame(rows, schema=["setting", "share", "low", "high"], orient="row"),
    )
