"""The figure of ``benchmarks/convergence.py``: validation over seconds, a curve per method.

    python benchmarks/convergence_figure.py CONVERGENCE.json FIGURE.svg [--start spectral]

draws what ``--json`` wrote. Needs Matplotlib (``pip install 'cnsdiff[bench]'``).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib
from frontier_figure import COLOURS, OTHER, OURS, STYLE, write_svg
from matplotlib.figure import Figure

#: By sampler or objective; the start is the dash.
_COLOUR = {
    "default": COLOURS[OURS],
    "dns": COLOURS["sampler"],
    "mixgcf": COLOURS["ablation"],
    "random": OTHER,
    "ssm": COLOURS["objective"],
    "dns_mn": "#999999",
    "ahns": "#56B4E9",
    "softmax_rho": "#E69F00",
}


def draw(found: dict[str, Any]) -> Figure:
    """The figure; the dotted line is the best value of the reference."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axes = figure.add_subplot()
        for name, run in found["runs"].items():
            kind, _, start = name.partition("/")
            dash = (0, (4, 2)) if start == "xavier" else "-"
            colour = _COLOUR.get(kind, OTHER)
            axes.plot(run["seconds"], run["values"], color=colour, linestyle=dash, label=name)
        best = found["summary"][found["reference"]]["best"]
        axes.axhline(best, color="#888888", linewidth=0.8, linestyle=":")
        axes.set_xlabel("seconds")
        read = "as trained" if found.get("dial", "off") == "off" else "at the dial"
        axes.set_ylabel(f"{found['metric']} on validation, {read}")
        axes.set_title(found["dataset"], loc="right", fontsize=9)
        axes.legend(
            loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, labelcolor="linecolor"
        )
        return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", type=Path)
    parser.add_argument("svg", type=Path)
    parser.add_argument("--start", help="of samplers, to be drawn alone")
    options = parser.parse_args()
    found = json.loads(options.json.read_text(encoding="utf-8"))
    if options.start:
        kept = [name for name in found["runs"] if name.partition("/")[2] in ("", options.start)]
        found["runs"] = {name: found["runs"][name] for name in kept}
    write_svg(draw(found), options.svg)


if __name__ == "__main__":
    main()
