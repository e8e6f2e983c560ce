"""Figures show the numbers of the description, and the page needs nothing but itself."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from cnsdiff.diagnostics import describe
from cnsdiff.diagnostics.figures import COLOURS, panels
from cnsdiff.diagnostics.page import page


@pytest.fixture(scope="module")
def described(timed):
    return describe(timed)


@pytest.fixture(scope="module")
def figures(described):
    return {panel.title: panel.figure for panel in panels(described)}


def trace(figure, name):
    (found,) = (one for one in figure.data if one.name == name)
    return found


def test_panels(described, bare):
    titles = [panel.title for panel in panels(described)]
    assert titles == [
        "Distance from train",
        "Popularity of the items",
        "Long tail",
        "Activity of the users",
        "Time",
    ]
    assert all(panel.caption for panel in panels(described))
    assert [panel.title for panel in panels(describe(bare))] == titles[:-1]


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
    axes, titles = ("items", "users", "time", "environments"), ("valid", "IID test", "OOD test")
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
                assert colour == COLOURS["test_ood"]


def test_figures_take_the_width_there_is(figures):
    for figure in figures.values():
        assert figure.layout.width is None
        assert figure.layout.autosize


class Tags(HTMLParser):
    """All tags with their attributes, the text outside scripts, and the length of each script."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.scripts: list[int] = []
        self._in_script = False

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._in_script = tag == "script"

    def handle_endtag(self, tag):
        self._in_script = False

    def handle_data(self, data):
        if self._in_script:
            self.scripts.append(len(data))
        else:
            self.text += data


def test_page_stands_alone(described, bare):
    other = describe(bare)
    html = page([described, other])
    tags = Tags()
    tags.feed(html)
    tags.close()
    loading = {"src", "href", "action", "data", "srcset"}
    assert not [(tag, at) for tag, at in tags.tags if loading & at.keys() or tag == "link"]
    # plotly.js once, and nine figures.
    assert sum(length > 1_000_000 for length in tags.scripts) == 1
    assert sum("plotly-graph-div" in (at.get("class") or "") for _, at in tags.tags) == 9
    assert html.count('"responsive": true') == 9
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in (
        tags.tags
    )
    assert len({at["id"] for tag, at in tags.tags if tag == "div" and "id" in at}) == 9
    # A name is text, whatever stands in it.
    assert "bare <b> (given)" in tags.text
    assert "b" not in {tag for tag, _ in tags.tags}
    assert page([described, other]) == html
