"""How the trials of a study look in its figures, and how they are counted in words."""

from __future__ import annotations

from typing import Any

from cnsdiff.display.palette import Style, method_styles
from cnsdiff.tuning.study import Trial, value_text

STATES = ("completed", "pruned", "failed")
STYLES: dict[str, Style] = method_styles(STATES)


def add_points(figure: Any, trials: list[Trial], x: list[Any]) -> None:
    """A point per trial, by state, with its setting on hovering."""
    for state in STATES:
        there = [at for at, trial in enumerate(trials) if trial.state == state]
        if not there:
            continue
        # A line each: in the data a break would be shown as the four characters that it is.
        settings = len(trials[there[0]].setting)
        lines = "".join(f"<br>%{{customdata[{at + 1}]}}" for at in range(settings))
        figure.add_scatter(
            x=[x[at] for at in there],
            y=[trials[at].value for at in there],
            mode="markers",
            name=state,
            marker=STYLES[state].marker,
            customdata=[[trials[at].number, *_settings(trials[at])] for at in there],
            hovertemplate=f"trial %{{customdata[0]}}: %{{y:.4f}}{lines}<extra></extra>",
        )


def _settings(trial: Trial) -> list[str]:
    return [f"{key}={value_text(value)}" for key, value in trial.setting.items()]
