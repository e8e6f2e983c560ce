"""Colours that stand out from the paper, and from one another for any reader."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from cnsdiff.base.errors import InputError
from cnsdiff.report.charts import DARK, SPLITS, method_styles

PAPER = {"light": "#ffffff", "dark": "#14171c"}
#: How readers with dichromacy see linear RGB (Machado, Oliveira & Fernandes, 2009; severity 1).
SEEN = {
    "all": np.eye(3),
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
}


def linear(colour: str) -> np.ndarray:
    channels = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    low, high = sorted(float(linear(each) @ (0.2126, 0.7152, 0.0722)) for each in (one, other))
    return (high + 0.05) / (low + 0.05)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB of linear sRGB, D65."""
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    scaled = np.array(to_xyz) @ rgb / (0.9505, 1.0, 1.089)
    x, y, z = np.where(scaled > 0.008856, np.cbrt(scaled), 7.787 * scaled + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def colours() -> dict[str, list[str]]:
    light = [style.colour for style in SPLITS.values()]
    light += [style.colour for style in method_styles(map(str, range(6))).values()]
    return {"light": light, "dark": [DARK[colour] for colour in light]}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_stand_out_from_the_paper(theme):
    for colour in colours()[theme]:
        assert contrast(colour, PAPER[theme]) >= 3, colour  # WCAG 1.4.11


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("reader", SEEN)
def test_any_two_colours_differ(theme, reader):
    seen = {
        colour: lab(np.clip(np.array(SEEN[reader]) @ linear(colour), 0, 1))
        for colour in colours()[theme]
    }
    assert len(seen) == 10
    for one, other in itertools.combinations(seen, 2):
        # A just noticeable difference is 2.3.
        assert np.linalg.norm(seen[one] - seen[other]) > 12, (one, other)


def test_colour_is_never_alone():
    for styles in (SPLITS, method_styles(map(str, range(6)))):
        symbols = [style.symbol for style in styles.values()]
        assert len(set(symbols)) == len(symbols)


def test_methods_keep_their_look_and_none_is_that_of_another():
    many = method_styles(f"m{n}" for n in range(30))
    assert len(set(many.values())) == 30
    assert method_styles(["m0", "m1"]) == {name: many[name] for name in ("m0", "m1")}
    assert list(method_styles(["a", "b", "a"])) == ["a", "b"]


def test_faint():
    style = SPLITS["test_iid"]
    assert style.faint(0.2) == f"{style.colour}33"
    with pytest.raises(InputError, match="between 0 and 1"):
        style.faint(2)
