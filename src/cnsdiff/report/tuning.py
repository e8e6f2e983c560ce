"""The report of a study: what was found, how the search went, and which settings matter."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from cnsdiff.palette import SPLITS, Style, method_styles
from cnsdiff.report.charts import chart
from cnsdiff.report.document import Block, Document, Facts, Figure, Prose, Section, Source
from cnsdiff.reporting import as_time
from cnsdiff.search_space import Space
from cnsdiff.tables import Cell, Column, Table, metric_title
from cnsdiff.tuning.importance import LEAST_TRIALS, Importances
from cnsdiff.tuning.study import BEST_CONFIG, Study, next_commands, read_study
from cnsdiff.tuning.trial import Trial, shown

_STATES = ("completed", "pruned", "failed")
_STYLES: dict[str, Style] = method_styles(_STATES)
#: With fewer trials for each setting, the shares are rough.
_ENOUGH = 5


def tuning_document(path: Path) -> Document:
    """The report of the study in a directory.

    Raises
    ------
    RunError
        There is none, or it is damaged.
    """
    path = Path(path)
    study = read_study(path)
    sections = [
        Section("Result", list(_result(study))),
        Section("Search", list(_search(study))),
        Section("Importance", list(_importance(study))),
        Section("Settings", list(_slices(study))),
        Section("Next", list(_next(study, path))),
    ]
    return Document(
        title=f"Tuning on {study.dataset['name']}",
        # No line begins with the sign of per cent.
        verdict=study.verdict(metric_title(study.objective)).replace(" %", "\u00a0%"),
        sections=sections,
        summary=_summary(study),
    )


def _summary(study: Study) -> str:
    missing = study.asked - len(study.trials)
    told = []
    if study.best is not None:
        told.append(
            "All of this was measured on validation, and no test split was opened. "
            f"The value is the highest of {_trials(len(study.trials))} and was picked for that, so "
            "**it is optimistic**: measure the best run on the tests before you believe it "
            "([Next](#next))."
        )
    if missing > 0:
        told.append(
            f"**{_trials(missing)} of {study.asked} are not there**: the same command goes on."
        )
    return "\n\n".join(told)


# --- Result


def _result(study: Study) -> Iterator[Block]:
    seconds = sum(trial.seconds for trial in study.trials)
    counts = ", ".join(f"{study.count(state)} {state}" for state in _STATES if study.count(state))
    rows = [
        ("dataset", f"{study.dataset['name']} ({study.dataset['scenario']})"),
        ("judged by", f"{metric_title(study.objective)} on validation"),
        ("trials", f"{len(study.trials)} of {study.asked}: {counts or 'none'}"),
        ("time", as_time(seconds)),
        ("seed of all trainings", str(study.config["seed"])),
    ]
    best, given = study.best, study.given
    if best is not None:
        rows.insert(2, ("best", f"{best.value:.4f}, trial {best.number}"))
        rows.insert(3, ("as given", "failed" if given is None else f"{given.value:.4f}"))
    yield Facts(rows)
    if best is None:
        return
    found = study.importances
    columns = (Column("share", "of the differences, %", digits=0),) if found else ()
    keys = list(found.shares if found is not None else study.spaces)
    yield Table(
        title="What was searched, and what is best",
        labels=("setting", "best", "as given", "searched"),
        columns=columns,
        rows=tuple(
            (
                (key, shown(best.setting[key]), shown(study.as_given(key)), str(study.spaces[key])),
                (Cell(100 * found.shares[key].share),) if found is not None else (),
            )
            for key in keys
        ),
        notes=study.left_out,
    )
    wider = study.wider()
    if wider:
        searches = " ".join(f"--search {key}={space}" for key, space in wider.items())
        yield Prose(
            f"**The best is near an end of what was searched** in {', '.join(wider)}. Search on, "
            f"into another directory: `{searches}`."
        )
    if best.number and study.given is not None:
        yield Prose(
            "Trial 0 is the configuration as given. All trials are trained with the same seed and "
            "judged on the same users; a gain of less than a few per cent may be no more than "
            "their luck. Train the best again with other seeds to see how far it moves."
        )


# --- Search


def _search(study: Study) -> Iterator[Block]:
    measured = [trial for trial in study.trials if trial.value is not None]
    if measured:
        yield _history(study, measured)
        yield _curves(study, measured)
    pruned = study.count("pruned")
    if pruned:
        yield Prose(
            f"{_trials(pruned)} ended early: after some epochs of grace, a trial that is below "
            "the median of the others at the same epoch is **pruned**. Its value is the best until "
            "then."
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
    _points(figure, measured, [trial.number for trial in measured])
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


def _points(figure: Any, trials: list[Trial], x: list[Any]) -> None:
    """A point per trial, by state, with its setting on hovering."""
    for state in _STATES:
        there = [at for at, trial in enumerate(trials) if trial.state == state]
        if not there:
            continue
        figure.add_scatter(
            x=[x[at] for at in there],
            y=[trials[at].value for at in there],
            mode="markers",
            name=state,
            marker=_STYLES[state].marker,
            customdata=[
                [trials[at].number, trials[at].described().replace("  ", "<br>")] for at in there
            ],
            hovertemplate="trial %{customdata[0]}: %{y:.4f}<br>%{customdata[1]}<extra></extra>",
        )


def _curves(study: Study, measured: list[Trial]) -> Figure:
    figure = chart(x="epoch", y=metric_title(study.objective), height=360)
    best = study.best
    named: set[str] = set()
    # The best on top of the others.
    for trial in sorted(measured, key=lambda trial: trial is best):
        name = "best" if trial is best else trial.state
        style = SPLITS["valid"] if trial is best else _STYLES[trial.state]
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
        settings = (shown(trial.setting[key]) for key in study.spaces)
        epochs = (trial.best_epoch or float("nan"), trial.epochs or float("nan"))
        numbers = tuple(Cell(number) for number in (*epochs, trial.seconds))
        rows.append(((str(trial.number), value, outcome, *settings), numbers))
    notes: tuple[str, ...] = ()
    if any(trial.same_as is not None for trial in study.trials):
        notes = ("“as N”: the setting of trial N again, which was not trained again.",)
    labels = ("trial", metric_title(study.objective), "outcome", *study.spaces)
    return Table("All trials", labels, columns, tuple(rows), notes)


# --- Importance


def _importance(study: Study) -> Iterator[Block]:
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
        counted = f"{found.n_trials} completed trials for {_plural(len(found.shares), 'setting')}"
        order = (
            "which setting comes first depends on which trials are left out"
            if found.leader is None
            else f"that {found.leader} comes first is settled, its share is not"
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
        marker={"color": _STYLES["completed"].colour},
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


# --- Settings


def _slices(study: Study) -> Iterator[Block]:
    measured = [trial for trial in study.trials if trial.value is not None]
    if not measured:
        yield Prose("No trial has a value yet.")
        return
    yield Prose(
        "Each trial once in every figure, over the value that it gave to one setting. The others "
        "change from point to point, too, so a slope here can be another setting's."
    )
    keys = study.spaces if study.importances is None else study.importances.shares
    for key in keys:
        yield _slice(study, key, measured)


def _slice(study: Study, key: str, measured: list[Trial]) -> Figure:
    space = study.spaces[key]
    figure = chart(x=key, y=metric_title(study.objective), height=300)
    words = space.choices is not None
    values = [trial.setting[key] for trial in measured]
    _points(figure, measured, [shown(value) for value in values] if words else values)
    best = study.best
    if best is not None:
        at = best.setting[key]
        figure.add_scatter(
            x=[shown(at) if words else at],
            y=[best.value],
            mode="markers",
            name="best",
            marker={
                "symbol": "circle-open",
                "size": 17,
                "color": SPLITS["valid"].colour,
                "line": {"width": 2},
            },
            hoverinfo="skip",
        )
    if words:
        order = [shown(choice) for choice in space.choices or ()]
        figure.update_xaxes(type="category", categoryorder="array", categoryarray=order)
    else:
        figure.update_xaxes(**_axis(space, values))
    figure.update_layout(showlegend=False)
    numbers = study.table().filter(pl.col("value").is_not_null())
    return Figure(
        key,
        f"Searched over {space}; the ring is the best.",
        figure,
        numbers.select("trial", "state", key, "value"),
        small=True,
    )


def _axis(space: Space, values: list[Any]) -> dict[str, Any]:
    """The axis of a setting: all of its space, and what lies outside."""
    ends = [*space.ends(), *(value for value in values if isinstance(value, int | float))]
    low, high = min(ends), max(ends)
    if not space.log or low <= 0:
        room = 0.04 * (high - low)
        axis: dict[str, Any] = {"range": [low - room, high + room], "zeroline": False}
        return axis | ({"dtick": max(1, round((high - low) / 8))} if space.integer else {})
    low, high = math.log10(low), math.log10(high)
    room = 0.04 * (high - low)
    decades = 1 if high - low > 2 else "D2"
    return {
        "type": "log",
        "range": [low - room, high + room],
        "dtick": decades,
        "exponentformat": "power",
    }


# --- Next


def _next(study: Study, path: Path) -> Iterator[Block]:
    # The reader has the report already.
    commands = [(c, why) for c, why in next_commands(study, path) if " report " not in c]
    text = "\n".join(f"{command}  # {purpose}" for command, purpose in commands)
    file = path / BEST_CONFIG
    if study.best is None:
        yield Prose("There is no best configuration yet; the same command goes on.")
        return
    yield Prose(
        "The best trial's run stands in `best/`, ready to be measured; its configuration is "
        f"`{BEST_CONFIG}`, which `cnsdiff train --config` takes."
    )
    yield Source("next.sh", text + "\n")
    if file.is_file():
        yield Source(BEST_CONFIG, file.read_text(encoding="utf-8"))


def _trials(n: int) -> str:
    return _plural(n, "trial")


def _plural(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' * (n != 1)}"
