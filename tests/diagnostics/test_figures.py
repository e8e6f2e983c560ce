"""Figures show the numbers of the description."""

from __future__ import annotations

import pytest

from cnsdiff.diagnostics import describe
from cnsdiff.display.wording import SPLIT_TITLES
from cnsdiff.report.charts import SPLITS
from cnsdiff.report.dataset import shift_figures


@pytest.fixture(scope="module")
def described(timed):
    return describe(timed)


@pytest.fixture(scope="module")
def figures(described):
    return {each.title: each.figure for each in shift_figures(described)}


def trace(figure, name):
    (found,) = (one for one in figure.data if one.name == name)
    return found


def test_figures(described, bare):
    titles = [each.title for each in shift_figures(described)]
    assert titles == [
        "Distance from train",
        "Popularity of the items",
        "Long tail",
        "Activity of the users",
        "Time",
    ]
    assert all(each.caption for each in shift_figures(described))
    assert [each.title for each in shift_figures(describe(bare))] == titles[:-1]


def test_distances_with_their_level_of_chance(described, figures):
    figure = figures["Distance from train"]
    bars = trace(figure, "OOD test")
    shown = dict(zip(bars.y, bars.x, strict=True))
    strokes = trace(figure, "by chance")
    chance = dict(zip(strokes.y, strokes.x, strict=True))
    for axis, shift in described.splits["test_ood"].shift.items():
        assert shown[f"{axis}, OOD test"] == shift.observed.js
        assert chance[f"{axis}, OOD test"] == shift.chance.js
    assert not [one for one in figure.data if one.name == "train"]
    # From the bottom: by axis, then by split.
    axes, titles = (
        ("items", "users", "time", "periods"),
        ("validation", "IID test", "OOD test"),
    )
    wanted = [f"{axis}, {title}" for axis in axes for title in titles]
    assert list(figure.layout.yaxis.categoryarray) == wanted[::-1]


def test_shares(described, figures):
    for name, title in (("train", "train"), ("test_iid", "IID test")):
        split = described.splits[name]
        assert trace(figures["Popularity of the items"], title).y == split.deciles
        assert trace(figures["Long tail"], title).y == split.long_tail
        assert trace(figures["Activity of the users"], title).y == split.activity
        assert trace(figures["Time"], title).y == split.time.cells
    activity = trace(figures["Activity of the users"], "train")
    assert list(activity.x)[:4] == ["1", "2–3", "4–7", "8–15"]
    times = trace(figures["Time"], "train").x
    assert described.time_edges[0] < times[0] < described.time_edges[1]
    assert len(times) == 50


def test_a_split_has_one_colour(figures):
    for figure in figures.values():
        for one in figure.data:
            if one.name == "OOD test":
                colour = (one.line if one.type == "scatter" else one.marker).color
                assert colour == SPLITS["test_ood"].colour


def test_figures_take_the_width_there_is(figures):
    for figure in figures.values():
        assert figure.layout.width is None


def test_every_point_drawn_is_among_the_numbers(described, bare):
    for one in (described, describe(bare)):
        for each in shift_figures(one):
            assert each.data.columns[0] in ("split", "of")
            for name in one.splits:
                own = each.data.filter(split=name)
                if name == "train" and each.title == "Distance from train":
                    assert not own.height
                    continue
                drawn = trace(each.figure, SPLIT_TITLES[name])
                assert own.height == len(drawn.y)
                values = drawn.x if each.title == "Distance from train" else drawn.y
                assert own["js" if "js" in own.columns else "share"].to_list() == list(values)
