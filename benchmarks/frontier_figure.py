"""The figure of ``benchmarks/frontier.py``: IID over OOD, a curve per method as the dial turns.

    python benchmarks/frontier_figure.py FRONTIER.json FIGURE.svg

draws it again from what ``--json`` wrote. Needs Matplotlib (``pip install 'cnsdiff[bench]'``).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

METRIC = "ndcg@20"

#: By group, of the Okabe–Ito palette: one strong colour, and muted ones told apart by their hue.
OURS = "ours"
COLOURS = {OURS: "#D55E00", "sampler": "#0072B2", "objective": "#009E73", "ablation": "#CC79A7"}
OTHER = "#000000"
#: Of the methods of one group, in their order.
DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 2)),
    (0, (1, 1.2)),
    (0, (6, 1.5, 1, 1.5)),
    (0, (3, 1, 1, 1, 1, 1)),
)
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "cnsdiff",  # and the same figure the same file
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
}


def draw(found: dict[str, Any]) -> Figure:
    """The figure: a ring where the model is as trained, a dot where validation puts the dial.

    Curves meet at both ends, where the dial drowns the model, so they are not labelled there: the
    names stand beside the axes, in the same order in every figure.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axes = figure.add_subplot()
        used: dict[str, int] = {}
        lines = {}
        for name, method in found["methods"].items():
            group = method["group"]
            dashes = DASHES[used.setdefault(group, 0) % len(DASHES)]
            curve = _points(method)
            if len(curve) > 1:
                used[group] += 1
                lines[name] = _curve(axes, name, method, dashes)
            else:
                (x, y), colour = curve[0.0], COLOURS.get(group, OTHER)
                axes.plot(x, y, "D", color=colour, ms=4, mew=0, label=name)
                axes.annotate(name, (x, y), (6, 0), textcoords="offset points", va="center")
        axes.set_xlabel(f"NDCG@{METRIC.partition('@')[2]}, shifted test (OOD)")
        axes.set_ylabel(f"NDCG@{METRIC.partition('@')[2]}, test like training (IID)")
        axes.set_title(found["dataset"], loc="right", fontsize=9)
        marks = [
            Line2D([], [], marker="o", linestyle="", mfc=face, mec="#555555", ms=5, label=meaning)
            for face, meaning in (("white", "as trained (γ = 0)"), ("#555555", "by validation"))
        ]
        plain: dict[str, Any] = {"frameon": False, "borderpad": 0}
        readings = axes.legend(
            handles=marks, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, handletextpad=0,
            columnspacing=1, **plain,
        )  # fmt: skip
        axes.add_artist(readings)
        if lines:
            key = axes.legend(
                handles=list(lines.values()), loc="center left", bbox_to_anchor=(1.01, 0.5),
                handlelength=2.6, labelcolor="linecolor", **plain,
            )  # fmt: skip
            for text, name in zip(key.get_texts(), lines, strict=True):
                if found["methods"][name]["group"] == OURS:
                    text.set_fontweight("bold")
        return figure


def _points(method: dict[str, Any]) -> dict[float, tuple[float, float]]:
    """OOD and IID at each dial."""
    return {p["gamma"]: (p["ood"][METRIC], p["iid"][METRIC]) for p in method["walk"]}


def _curve(axes: Axes, name: str, method: dict[str, Any], dashes: Any) -> Line2D:
    """Draw a method's walk, ours on top of the others and all marks on top of all lines."""
    ours, at = method["group"] == OURS, _points(method)
    colour, alpha = COLOURS.get(method["group"], OTHER), 1.0 if ours else 0.6
    (line,) = axes.plot(
        *zip(*at.values(), strict=True), label=name, color=colour, alpha=alpha, linestyle=dashes,
        linewidth=2.2 if ours else 1.2, zorder=2.5 if ours else 2,
    )  # fmt: skip
    mark: dict[str, Any] = {"marker": "o", "mec": colour, "ms": 6 if ours else 4.5, "alpha": alpha}
    axes.plot(*at[0.0], mfc="white", zorder=4 if ours else 3, **mark)
    axes.plot(*at[method["gamma"]], mfc=colour, zorder=4 if ours else 3, **mark)
    return line


def write_svg(figure: Figure, path: Path) -> None:
    """Write a figure as SVG; the same one gives the same bytes."""
    with matplotlib.rc_context(STYLE):
        figure.savefig(path, format="svg", metadata={"Date": None})


def save(found: dict[str, Any], path: Path) -> None:
    """Write the figure as SVG; the same numbers give the same bytes."""
    write_svg(draw(found), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", type=Path)
    parser.add_argument("svg", type=Path)
    options = parser.parse_args()
    found = json.loads(options.json.read_text(encoding="utf-8"))
    for method in found["methods"].values():
        if method["group"] == "cnsdiff":  # the name of the group in earlier versions
            method["group"] = OURS
    save(found, options.svg)


if __name__ == "__main__":
    main()
