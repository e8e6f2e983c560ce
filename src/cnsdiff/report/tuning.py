"""The report of a study: what was found, how the search went, and which settings matter."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from cnsdiff.base.search_space import Space
from cnsdiff.base.text import Command
from cnsdiff.display.tables import Column, Table
from cnsdiff.display.wording import clock, count, metric_title, number
from cnsdiff.report.charts import (
    DOTTED,
    SPLITS,
    PlotlyPart,
    Style,
    chart,
    method_styles,
    ring,
    strokes,
)
from cnsdiff.report.document import (
    Block,
    Document,
    Facts,
    Figure,
    Prose,
    Section,
    Source,
    verbatim,
)
from cnsdiff.tuning.importance import LEAST_TRIALS
from cnsdiff.tuning.study import (
    BEST_CONFIG,
    Importances,
    Study,
    Trial,
    next_commands,
    read_study,
    value_text,
)

STATES = ("completed", "pruned", "failed")
STYLES: dict[str, Style] = method_styles(STATES)
_BEST = SPLITS["valid"]
#: With fewer trials for each setting, the shares of the settings are rough.
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
    valued = [trial for trial in study.trials if trial.value is not None]
    return Document(
        title=f"Tuning on {study.dataset.name}",
        verdict=study.verdict(metric_title(study.objective)),
        sections=[
            Section("Result", list(_result(study))),
            Section("Search", list(_search(study, valued))),
            Section("Importance", list(_importance(study))),
            Section("Settings", list(_settings(study, valued))),
            Section("Next", list(_next(study, path))),
        ],
        summary=_summary(study),
    )


def _summary(study: Study) -> str:
    sentences = []
    if study.best is not None:
        sentences.append(
            "All of this was measured on validation, and no test split was opened. "
            f"The value is the highest of {count(len(study.trials), 'trial')} and was picked for "
            "that, so **it is optimistic**: measure the best run on the tests before you believe "
            "it ([Next](#next))."
        )
    if (missing := study.asked - len(study.trials)) > 0:
        sentences.append(
            f"**{count(missing, 'trial')} of {study.asked} are missing**: the same command goes on."
        )
    return "\n\n".join(sentences)


def _result(study: Study) -> Iterator[Block]:
    counts = ", ".join(f"{study.count(state)} {state}" for state in STATES if study.count(state))
    best, given, shares = study.best, study.given, study.importances
    facts = [
        ("dataset", f"{study.dataset.name} ({study.dataset.scenario})"),
        ("judged by", f"{metric_title(study.objective)} on validation"),
    ]
    if best is not None:
        facts += [
            ("best", f"{number(best.value)}, trial {best.number}"),
            ("as given", "failed" if given is None else number(given.value)),
        ]
    yield Facts(
        [
            *facts,
            ("trials", f"{len(study.trials)} of {study.asked}: {counts or 'none'}"),
            ("time", clock(sum(trial.seconds for trial in study.trials))),
            ("seed of all trainings", str(study.config["seed"])),
        ]
    )
    if best is None:
        return

    def searched(key: str) -> list[str]:
        own = value_text(best.setting[key]), value_text(study.as_given(key))
        return [key, *own, str(study.spaces[key])]

    share = Column("share", "of the differences, %", digits=0)
    yield Table.of(
        "What was searched, and what is best",
        ["setting", "best", "as given", "searched"],
        [] if shares is None else [share],
        [(searched(key), []) for key in study.spaces]
        if shares is None
        else [(searched(key), [100 * own.share]) for key, own in shares.shares.items()],
        *study.left_out,
    )
    if wider := study.wider():
        command = Command("tune", study.dataset.path or "DATASET", search=wider, out="STUDY")
        yield Prose(
            "**The best is near an end of what was searched** in "
            f"{verbatim(', '.join(wider))}. Search on, into another directory: "
            f"`{verbatim(command)}`."
        )
    if best.number and given is not None:
        yield Prose(
            "Trial 0 is the configuration as given. All trials are trained with the same seed and "
            "judged on the same users; a gain of less than a few per cent may be no more than "
            "their luck. Train the best again with other seeds to see how far it moves."
        )


def _next(study: Study, path: Path) -> Iterator[Block]:
    if study.best is None:
        yield Prose("There is no best configuration yet; the same command goes on.")
        return
    # The reader has the report already.
    commands = [each for each in next_commands(study, path) if "report" not in each.words]
    yield Prose(
        "The best trial's run stands in `best/`, ready to be measured; its configuration, which "
        f"`{Command('train')}` takes, is `{BEST_CONFIG}`."
    )
    text = "\n".join(f"{command}  # {command.purpose}" for command in commands)
    yield Source("next.sh", text + "\n")
    if (file := path / BEST_CONFIG).is_file():
        yield Source(BEST_CONFIG, file.read_text(encoding="utf-8", errors="replace"))


# --- The trials in their order, and as they trained


def _add_points(figure: Any, trials: list[Trial], x: list[Any]) -> None:
    """A point per trial, by state, with its setting on hovering."""
    for state in STATES:
        own = [(at, trial) for at, trial in zip(x, trials, strict=True) if trial.state == state]
        if not own:
            continue
        settings = [
            [f"{key}={value_text(value)}" for key, value in trial.setting.items()]
            for _, trial in own
        ]
        # A line each: in the data a break would be shown as the four characters that it is.
        lines = "".join(f"<br>%{{customdata[{at + 1}]}}" for at in range(len(settings[0])))
        figure.add_scatter(
            x=[at for at, _ in own],
            y=[trial.value for _, trial in own],
            mode="markers",
            name=state,
            marker=STYLES[state].marker,
            customdata=[
                [trial.number, *setting] for (_, trial), setting in zip(own, settings, strict=True)
            ],
            hovertemplate=f"trial %{{customdata[0]}}: %{{y:.4f}}{lines}<extra></extra>",
        )


def _search(study: Study, valued: list[Trial]) -> Iterator[Block]:
    if valued:
        yield _history(study, valued)
        yield _curves(study, valued)
    if pruned := study.count("pruned"):
        yield Prose(
            f"{count(pruned, 'trial')} ended early: after some epochs of grace, a trial that is "
            "below the median of the others at the same epoch is **pruned**. Its value is the "
            "best until then."
        )
    yield _trials_table(study)
    errors = [trial for trial in study.trials if trial.error is not None]
    if errors:
        yield Facts([(f"trial {trial.number} failed", str(trial.error)) for trial in errors])


def _history(study: Study, valued: list[Trial]) -> Figure:
    figure = chart(x="trial", y=metric_title(study.objective), height=360)
    # The best completed trial so far; None before the first.
    best: list[float | None] = []
    for trial in study.trials:
        values = [best[-1]] if best else []
        values += [trial.value if trial.state == "completed" else None]
        best.append(max((value for value in values if value is not None), default=None))
    since = [
        (trial.number, value)
        for trial, value in zip(study.trials, best, strict=True)
        if value is not None
    ]
    figure.add_scatter(
        x=[at for at, _ in since],
        y=[value for _, value in since],
        mode="lines",
        line={"color": _BEST.colour, "width": 2, "shape": "hv"},
        name="best so far",
        hoverinfo="skip",
    )
    _add_points(figure, valued, [trial.number for trial in valued])
    if study.given is not None:
        annotation = {"text": "as given", "xanchor": "right"}
        figure.add_hline(y=study.given.value, line=DOTTED, annotation=annotation)
    figure.update_xaxes(dtick=max(1, len(study.trials) // 12), zeroline=False)
    return Figure(
        "The search",
        "The value of each trial on validation, and the best so far. Trial 0 is the configuration "
        "as given; the first trials are drawn at random, the others where those before were good.",
        figure,
        study.table().with_columns(best_so_far=pl.Series(best)),
    )


def _curves(study: Study, valued: list[Trial]) -> Figure:
    figure = chart(x="epoch", y=metric_title(study.objective), height=360)
    best = study.best
    named: set[str] = set()
    # The best on top of the others.
    for trial in sorted(valued, key=lambda trial: trial is best):
        name = "best" if trial is best else trial.state
        colour = _BEST.colour if trial is best else STYLES[trial.state].faint(0.5)
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
        for trial in valued
        for epoch, value in trial.curve
    ]
    return Figure(
        "Validation while training",
        "A line per trial. One that ends at its first epochs has found its best early and run out "
        "of patience, or was pruned.",
        figure,
        pl.DataFrame(rows, schema=["trial", "state", "epoch", "value"], orient="row"),
    )


def _trials_table(study: Study) -> Table:
    rows = []
    for trial in study.trials:
        outcome: str = "best" if trial is study.best else trial.state
        if trial.same_as is not None:
            outcome += f", as {trial.same_as}"
        # The value stands in front, where a narrow screen shows it.
        value = "" if trial.value is None else number(trial.value)
        settings = [value_text(trial.setting[key]) for key in study.spaces]
        numbers = [trial.best_epoch or None, trial.epochs or None, trial.seconds]
        rows.append(([str(trial.number), value, outcome, *settings], numbers))
    repeated = any(trial.same_as is not None for trial in study.trials)
    return Table.of(
        "All trials",
        ["trial", metric_title(study.objective), "outcome", *study.spaces],
        [
            Column("best_epoch", "best epoch", digits=0),
            Column("epochs", "epochs", digits=0),
            Column("seconds", "seconds", digits=1),
        ],
        rows,
        *(["“as N”: the setting of trial N again, which was not trained again."] * repeated),
    )


# --- Which settings matter


def _importance(study: Study) -> Iterator[Block]:
    importances = study.importances
    if importances is None:
        completed = study.count("completed")
        yield Prose(
            f"Nothing can be said of which settings matter: {LEAST_TRIALS} completed trials are "
            f"needed for that, {completed} are there"
            + (
                ", and they are all alike."
                if completed >= LEAST_TRIALS
                else ". The same command with more trials goes on."
            )
        )
        return
    yield _shares(importances)
    yield Prose(
        "fANOVA: a random forest is fitted to the values of the completed trials over the space "
        "searched, and its variance is divided among the settings, what two of them do together "
        "left out. There are ten forests, each of four fifths of the trials: the bar is their "
        "mean, and the whisker is where eight of the ten lie."
    )
    n_trials, n_settings = importances.n_trials, len(importances.shares)
    if importances.leader is None or n_trials < _ENOUGH * n_settings:
        order = (
            "which setting comes first depends on which trials are left out"
            if importances.leader is None
            else f"that {verbatim(importances.leader)} comes first is settled, its share is not"
        )
        yield Prose(
            f"**These shares are rough**: there are {n_trials} completed trials for "
            f"{count(n_settings, 'setting')}, and {order}."
        )


def _shares(importances: Importances) -> Figure:
    rows = [(key, own.share, own.low, own.high) for key, own in importances.shares.items()]
    bars = rows[::-1]  # the first on top
    figure = chart(x="share of the differences", height=110 + 36 * len(rows))
    figure.add_bar(
        x=[share for _, share, _, _ in bars],
        y=[key for key, *_ in bars],
        orientation="h",
        marker={"color": STYLES["completed"].colour},
        error_x=strokes([bar[1:] for bar in bars], color=SPLITS["train"].colour),
        hovertemplate="%{y}: %{x:.0%}<extra></extra>",
        showlegend=False,
    )
    figure.update_xaxes(tickformat=".0%", rangemode="tozero")
    figure.update_yaxes(automargin=True, showgrid=False)
    return Figure(
        "Which settings matter",
        f"What each setting accounts for of the differences between {importances.n_trials} "
        "completed trials.",
        figure,
        pl.DataFrame(rows, schema=["setting", "share", "low", "high"], orient="row"),
    )


# --- What trials reached, over the value that each gave to one setting


def _settings(study: Study, valued: list[Trial]) -> Iterator[Block]:
    if not valued:
        yield Prose("No trial has a value yet.")
        return
    yield Prose(
        "Each trial once in every figure, over the value that it gave to one setting. The others "
        "change from point to point, too, so a slope here can be another setting's."
    )
    for key in study.spaces if study.importances is None else study.importances.shares:
        yield _setting(study, key, valued)


def _setting(study: Study, key: str, valued: list[Trial]) -> Figure:
    space = study.spaces[key]
    figure = chart(x=key, y=metric_title(study.objective), height=300)
    shown: Any = value_text if space.choices is not None else lambda value: value
    values = [trial.setting[key] for trial in valued]
    _add_points(figure, valued, [shown(value) for value in values])
    if (best := study.best) is not None:
        figure.add_scatter(
            x=[shown(best.setting[key])],
            y=[best.value],
            mode="markers",
            name="best",
            marker=ring(_BEST.colour),
            hoverinfo="skip",
        )
    if space.choices is not None:
        order = [shown(choice) for choice in space.choices]
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


def _axis(space: Space, values: list[Any]) -> PlotlyPart:
    """The axis of a setting: all of its space, and what lies outside."""
    ends = [*space.ends(), *(value for value in values if isinstance(value, int | float))]
    low, high = min(ends), max(ends)
    if not space.log or low <= 0:
        room = 0.04 * (high - low)
        axis: PlotlyPart = {"range": [low - room, high + room], "zeroline": False}
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
