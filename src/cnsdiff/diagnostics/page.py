"""Figures as one HTML file that opens offline, on a phone as on a desk."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from cnsdiff.data.directory import SPLIT_TITLES
from cnsdiff.diagnostics.description import Description
from cnsdiff.diagnostics.figures import panels

_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font-family: system-ui, sans-serif; color: #2b2d42; background: #fff; line-height: 1.5;
       max-width: 60rem; margin: 0 auto; padding: 1rem; }}
h2, h3 {{ margin-bottom: 0; }}
p {{ margin-top: 0.25rem; }}
</style>
</head>
<body>
<h1>{title}</h1>
"""


def page(descriptions: Sequence[Description]) -> str:
    """A self-contained HTML page with all figures of each dataset; the same at every call.

    plotly.js is in it once, and nothing is loaded from elsewhere.
    """
    title = "Shift: " + ", ".join(dict.fromkeys(one.name for one in descriptions))
    parts = [_HEAD.format(title=escape(title))]
    number = 0
    for one in descriptions:
        parts.append(f"<h2>{escape(one.name)} ({escape(one.scenario)})</h2>\n<p>{_facts(one)}</p>")
        for panel in panels(one):
            figure = panel.figure.to_html(
                full_html=False,
                include_plotlyjs=number == 0,
                include_mathjax=False,
                default_height="420px",
                div_id=f"figure-{number}",
                config={"responsive": True, "displayModeBar": False},
            )
            parts.append(f"<h3>{escape(panel.title)}</h3>\n<p>{escape(panel.caption)}</p>")
            parts.append(figure)
            number += 1
    return "\n".join([*parts, "</body>\n</html>\n"])


def _facts(description: Description) -> str:
    splits = ", ".join(
        f"{SPLIT_TITLES[name]} {split.pairs:,}" for name, split in description.splits.items()
    )
    return f"{description.n_users:,} users, {description.n_items:,} items; pairs: {splits}."
