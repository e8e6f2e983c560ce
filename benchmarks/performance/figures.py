"""The figures of the performance table, from what ``run.py --json`` wrote.

``performance-ratios.svg``: each value with a target, against it. ``performance-step.svg``: where a
training step goes. ``performance-growth.svg``: seconds per interaction and peak memory as the log
grows. One without findings is not drawn.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

# The look of all our figures is kept one folder up.
sys.path.append(str(Path(__file__).parents[1]))

from frontier_figure import COLOURS, OURS, STYLE, write_svg
from growth import PACE
from step_profile import PHASES

Record = dict[str, Any]

#: By phase, of the Okabe–Ito palette, forward and backward of one thing in one hue.
_PHASE_COLOURS = dict(
    zip(
        PHASES,
        (
            *("#0072B2", "#E69F00", "#F0E442", "#D55E00"),
            *("#F2A071", "#56B4E9", "#009E73", "#BBBBBB"),
        ),
        strict=True,
    )
)
_MET, _MISSED = COLOURS["objective"], COLOURS[OURS]
_LINE = 0.21  # inches a row of a figure is high
_LEAST = 1 / 8  # share of a target; less than that is drawn as an arrow there


def draw(report: dict[str, Any], folder: Path) -> Iterator[Path]:
    """Draw all figures that there are findings for into ``folder``; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = {"ratios": _ratios(report), "step": _step(report), "growth": _growth(report)}
    for name, figure in figures.items():
        if figure is not None:
            path = folder / f"performance-{name}.svg"
            write_svg(figure, path)
            yield path


def _ratios(report: dict[str, Any]) -> Figure | None:
    """How far each value is from its target, on one scale: left of the line it is met."""
    every = [record for records in report["rows"].values() for record in records]
    judged = [record for record in every if record["met"] is not None]
    if not judged:
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 0.9 + _LINE * len(judged)), layout="constrained")
        axes = figure.add_subplot()
        axes.set_xscale("log", base=2)
        for y, record in enumerate(judged):
            at, low, high = (_of_target(record, record[name]) for name in ("value", "low", "high"))
            colour = _MET if record["met"] else _MISSED
            axes.plot([low, high], [y, y], color=colour, linewidth=1.2, solid_capstyle="butt")
            axes.plot(at, y, "<" if at == _LEAST else "o", color=colour, ms=4.5, mew=0)
            bound = "≥" if record["target"]["at_least"] else "≤"
            unit = "" if record["unit"] == "×" else f" {record['unit']}"
            said = f"{record['value']:.3g}{unit}  ({bound} {record['target']['bound']:g}{unit})"
            axes.annotate(
                said, (1.01, y), xycoords=("axes fraction", "data"), va="center", color=colour
            )
        axes.axvline(1, color="#555555", linewidth=0.8, zorder=0)
        axes.set_yticks(range(len(judged)), [_name(record) for record in judged])
        axes.set_ylim(len(judged) - 0.5, -0.5)
        axes.xaxis.set_major_locator(LogLocator(base=2, numticks=20))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("share of what the target allows (median and range over rounds)")
        return figure


def _of_target(record: Record, value: float) -> float:
    """1 at the target, less where it is surpassed."""
    bound = float(record["target"]["bound"])
    # A difference of two times may fall below zero, where a logarithm ends.
    share = bound / value if record["target"]["at_least"] else value / bound
    return max(share, _LEAST)


def _name(record: Record) -> str:
    where = [record["dataset"], record["threads"] and f"{record['threads']} thread(s)"]
    return ", ".join([record["what"], *(part for part in where if part)])


def _step(report: dict[str, Any]) -> Figure | None:
    """A bar for each preset and place, divided by phases; its milliseconds beside."""
    records = [r for r in report["rows"].get("profile", []) if r["value"] is not None]
    if not records:
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.8, 1.2 + 1.3 * _LINE * len(records)), layout="constrained")
        axes = figure.add_subplot()
        left = [0.0] * len(records)
        for phase in PHASES:
            shares = [100 * record["details"]["shares"][phase] for record in records]
            axes.barh(
                range(len(records)), shares, 0.72, left, color=_PHASE_COLOURS[phase], label=phase
            )
            for y, (share, begin) in enumerate(zip(shares, left, strict=True)):
                if share >= 5:
                    axes.text(
                        begin + share / 2, y, f"{share:.0f}", ha="center", va="center", fontsize=7
                    )
            left = [begin + share for begin, share in zip(left, shares, strict=True)]
        for y, record in enumerate(records):
            axes.text(101, y, f"{1e3 * record['value']:.1f} ms", va="center")
        names = [
            f"{r['details']['preset']}, {r['dataset']}, {r['threads']} thread(s)" for r in records
        ]
        axes.set_yticks(range(len(records)), names)
        axes.set_ylim(len(records) - 0.5, -0.5)
        axes.set_xlim(0, 100)
        axes.set_xlabel("share of a training step, %")
        figure.legend(
            loc="outside upper center", ncols=4, frameon=False, handlelength=1, columnspacing=1.2
        )
        return figure


def _growth(report: dict[str, Any]) -> Figure | None:
    """Microseconds per interaction on the left, GiB on the right; a line per number of threads."""
    records = [r for r in report["rows"].get("growth", []) if r["value"] is not None]
    if not records:
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 2.8), layout="constrained")
        pace, memory = figure.subplots(1, 2)
        for threads, colour in zip(
            sorted({r["threads"] for r in records}),
            (COLOURS[OURS], COLOURS["sampler"], COLOURS["objective"], COLOURS["ablation"]) * 8,
            strict=False,
        ):
            own = [r for r in records if r["threads"] == threads]
            times = [r for r in own if r["unit"] == "×"]
            sizes = [r["details"]["interactions"] for r in times]
            micro = [1e6 * r["seconds"] for r in times]
            pace.plot(sizes, micro, "o-", ms=4, color=colour, label=f"{threads} thread(s)")
            # The most that the target allows, from the smallest log on.
            pace.plot(sizes, [PACE.bound * micro[0]] * len(sizes), ":", color=colour, linewidth=0.9)
            peaks = [r for r in own if r["unit"] == "GiB"]
            memory.plot(
                [r["details"]["interactions"] for r in peaks], [r["value"] for r in peaks], "o-",
                ms=4, color=colour,
            )  # fmt: skip
        _by_size(pace, "µs of an epoch per interaction")
        _by_size(memory, "peak memory, GiB")
        pace.legend(frameon=False)
        return figure


def _by_size(axes: Axes, what: str) -> None:
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("interactions")
    axes.set_ylabel(what)
