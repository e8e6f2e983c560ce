"""How the search of a study went: its trials in their order, and as they trained."""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from cnsdiff.display.palette import SPLITS
from cnsdiff.display.tables import Cell, Column, Table
from cnsdiff.display.wording import count, metric_title
from cnsdiff.report.charts import chart
from cnsdiff.report.document import Block, Facts, Figure, Prose
from cnsdiff.report.tuning_trials import STYLES, add_points
from cnsdiff.tuning.study import Study, Trial, value_text


def search(study: Study) -> Iterator[Block]:
    measured = [trial for trial in study.trials if trial.value is not None]
    if measured:
        yield _history(study, measured)
        yield _curves(study, measured)
    pruned = study.count("pruned")
    if pruned:
        yield Prose(
            f"{count(pruned, 'trial')} ended early: after some epochs of grace, a trial that is "
            "below the median of the others at the same epoch is **pruned**. Its value is the "
            "best until then."
        )
    yield _table(study)
    errors = [trial for trial in study.trials if trial.error is not None]
    if errors:
        yield Facts([(f"trial {trial.number} failed", str(trial.error)) for trial in errors])


def _history(study: Study, measured: list[Trial]) -> Figure:
    figure = chart(x="trial", y=metric_title(study.objective), height=360)
    best: list[float] = []
    for trial in study.trials:
        value = trial.value if trial.state == "completed" and trial.value is not None else None
        so_far = best[-1] if best else float("-inf")
        best.append(so_far if value is None else max(so_far, value))
    figure.add_scatter(
        x=[trial.number for trial, value in zip(study.trials, best, strict=True) if value > -1],
        y=[value for value in best if value > -1],
        mode="lines",
        line={"color": SPLITS["valid"].colour, "width": 2, "shape": "hv"},
        name="best so far",
        hoverinfo="skip",
    )
    add_points(figure, measured, [trial.number for trial in measured])
    if study.given is not None:
        figure.add_hline(
            y=study.given.value,
            line={"dash": "dot", "width": 1, "color": SPLITS["train"].colour},
            annotation={"text": "as given", "xanchor": "right"},
        )
    figure.update_xaxes(dtick=max(1, len(study.trials) // 12), zeroline=False)
    return Figure(
        "The search",
        "The value of each trial on validation, and the best so far. Trial 0 is the configuration "
        "as given; the first trials are drawn at random, the others where those before were good.",
        figure,
        study.table().with_columns(
            best_so_far=pl.Series([value if value > -1 else None for value in best])
        ),
    )


def _curves(study: Study, measured: list[Trial]) -> Figure:
    figure = chart(x="epoch", y=metric_title(study.objective), height=360)
    best = study.best
    named: set[str] = set()
    # The best on top of the others.
    for trial in sorted(measured, key=lambda trial: trial is best):
        name = "best" if trial is best else trial.state
        style = SPLITS["valid"] if trial is best else STYLES[trial.state]
        colour = style.colour if trial is best else style.faint(0.5)
        figure.add_scatter(
            x=[epoch for epoch, _ in trial.curve],
            y=[value for _, value in trial.curve],
            mode="lines" if len(trial.curve) > 1 else "markers",
            name=name,
            legendgroup=name,
            showlegend=name not in named,
            line={
                "color": colour,
                "width": 3 if trial is best else 1.5,
                "dash": "solid" if trial.state == "completed" else "dot",
            },
            marker={"color": colour},
            hovertemplate=f"trial {trial.number}, epoch %{{x}}: %{{y:.4f}}<extra></extra>",
        )
        named.add(name)
    rows = [
        (trial.number, trial.state, epoch, value)
        for trial in measured
        for epoch, value in trial.curve
    ]
    return Figure(
        "Validation while training",
        "A line per trial. One that ends at its first epochs has found its best early and run out "
        "of patience, or was pruned.",
        figure,
        pl.DataFrame(rows, schema=["trial", "state", "epoch", "value"], orient="row"),
    )


def _table(study: Study) -> Table:
    columns = (
        Column("best_epoch", "best epoch", digits=0),
        Column("epochs", "epochs", digits=0),
        Column("seconds", "seconds", digits=1),
    )
    rows = []
    for trial in study.trials:
        outcome: str = "best" if trial is study.best else trial.state
        if trial.same_as is not None:
            outcome += f", as {trial.same_as}"
        # The value stands in front, where a narrow screen shows it.
        value = "" if trial.value is None else f"{trial.value:.4f}"
        settings = (value_text(trial.setting[key]) for key in study.spaces)
        epochs = (trial.best_epoch or float("nan"), trial.epochs or float("nan"))
        numbers = tuple(Cell(number) for number in (*epochs, trial.seconds))
        rows.append(((str(trial.number), value, outcome, *settings), numbers))
    notes: tuple[str, ...] = ()
    if any(trial.same_as is not None for trial in study.trials):
        notes = ("“as N”: the setting of trial N again, which was not trained again.",)
    labels = ("trial", metric_title(study.objective), "outcome", *study.spaces)
    return Table("All trials", labels, columns, tuple(rows), notes)
