"""The colours of all figures: one for each split, one for each method, told apart by anyone.

Chosen so that any two differ for readers with and without colour blindness, and each stands out
from the paper; a dark page shows the twin of :data:`DARK`. Colour is never alone: with each goes a
symbol and a dash.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cnsdiff.base.errors import InputError

#: A part of a figure, as Plotly takes it.
PlotlyPart = dict[str, Any]


@dataclass(frozen=True)
class Style:
    """How a split or a method is drawn wherever it comes.

    Attributes
    ----------
    colour
        ``#rrggbb``, as on white paper.
    symbol, dash
        Of Plotly's markers and lines.
    """

    colour: str
    symbol: str
    dash: str

    @property
    def marker(self) -> PlotlyPart:
        """For a trace of points or bars of one colour."""
        return {"color": self.colour, "symbol": self.symbol, "size": 9}

    @property
    def line(self) -> PlotlyPart:
        """For a trace of lines."""
        return {"color": self.colour, "dash": self.dash, "width": 2}

    def faint(self, alpha: float = 0.16) -> str:
        """The colour, transparent: for the area of an interval.

        Raises
        ------
        InputError
            ``alpha`` is not from 0 to 1.
        """
        if not 0 <= alpha <= 1:
            raise InputError(f"a transparency lies between 0 and 1, not at {alpha:g}")
        return f"{self.colour}{round(255 * alpha):02x}"


#: The splits, the same in every figure.
SPLITS = {
    "train": Style("#57616b", "diamond", "dot"),
    "valid": Style("#704f00", "square", "dash"),
    "test_iid": Style("#1980e3", "circle", "solid"),
    "test_ood": Style("#d47419", "triangle-up", "solid"),
}

_METHODS = (
    ("#413ff3", "circle"),
    ("#4e9d69", "square"),
    ("#641729", "triangle-up"),
    ("#009ab9", "diamond"),
    ("#4c2e00", "cross"),
    ("#392c60", "x"),
)
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")

#: What a colour is on dark paper.
DARK = {
    "#57616b": "#a2a3a7",
    "#704f00": "#e6d62e",
    "#1980e3": "#76b8fd",
    "#d47419": "#fc9e51",
    "#413ff3": "#a07dff",
    "#4e9d69": "#95f0b1",
    "#641729": "#ff4a8d",
    "#009ab9": "#9aeef8",
    "#4c2e00": "#c8763f",
    "#392c60": "#8a85bd",
}


def method_styles(methods: Iterable[str]) -> dict[str, Style]:
    """A style for each method, in their order; the first are the easiest to tell apart.

    Past the sixth the colours return with another symbol and dash.
    """
    styles = {}
    for at, name in enumerate(dict.fromkeys(methods)):
        lap, place = divmod(at, len(_METHODS))
        colour, _ = _METHODS[place]
        symbol = _METHODS[(place + lap) % len(_METHODS)][1] + ("-open" if lap % 2 else "")
        styles[name] = Style(colour, symbol, _DASHES[(place + lap) % len(_DASHES)])
    return styles
