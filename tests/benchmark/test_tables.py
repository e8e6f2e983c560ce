"""What stands in the tables, and that every form of them can be read back."""

from __future__ import annotations

import json
import math
import re
from typing import ClassVar

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from cnsdiff.base.errors import InputError
from cnsdiff.base.text import visible
from cnsdiff.benchmark.headline import Headline
from cnsdiff.benchmark.tables import headline_tables, leaderboard, overview, trainings
from cnsdiff.display.render import render
from cnsdiff.display.tables import HALF_WIDTH, HALF_WIDTH_OVER_SEEDS, Cell, Column, Table

NAN = math.nan
#: Dataset, method, group, selection, anticipated, split, metric, mean, half width, seeds.
SUMMARY = pl.DataFrame(
    [
        ("food", "MostPop", "reference", "valid", False, "test_iid", "ndcg@20", 0.1, NAN, 1),
        ("food", "MostPop", "reference", "valid", False, "test_ood", "ndcg@20", 0.3, NAN, 1),
        ("food", "dns", "sampler", "valid", False, "test_iid", "ndcg@20", 0.4, 0.01, 3),
        ("food", "dns", "sampler", "valid", False, "test_ood", "ndcg@20", 0.2, 0.02, 3),
        ("food", "EASE", "reference", "valid", False, "test_iid", "ndcg@20", 0.2, NAN, 1),
        ("food", "EASE", "reference", "valid", False, "test_ood", "ndcg@20", 0.3, NAN, 1),
        ("food", "failed", "sampler", "valid", False, "test_iid", "ndcg@20", NAN, NAN, 3),
        ("food", "dns", "sampler", "recency", True, "test_ood", "gini@20", 0.9, 0.1, 3),
    ],
    schema=[
        *("dataset", "method", "group", "selection", "anticipated", "split", "metric"),
        *("mean", "half", "n_seeds"),
    ],
    orient="row",
).with_columns(low=pl.col("mean") - pl.col("half"), high=pl.col("mean") + pl.col("half"))
COMPARISON = pl.DataFrame(
    [
        ("food", "dns", "valid", "test_ood", "ndcg@20", "MostPop", 0.01, 0.04),
        ("food", "EASE", "valid", "test_ood", "ndcg@20", "MostPop", 0.001, 0.06),
        ("yelp", "EASE", "valid", "test_ood", "ndcg@20", "MostPop", 0.0, 0.0),
        ("food", "EASE", "recency", "test_ood", "ndcg@20", "MostPop", 0.0, 0.0),
    ],
    schema=["dataset", "method", "selection", "split", "metric", "baseline", "p", "p_holm"],
    orient="row",
)
#: Names that mean something to rich, Markdown, LaTeX or JSON.
NAMES = [
    "dns_mn", "[bold]x", "a|b", "50% & more", "*star*", "$x^2$", "{\\it}", "#1 ~ <b>",
    '"q" \\', "ρ é", "valid+dial", "+x",
]  # fmt: skip
NASTY = Table(
    "A_table & | its title",
    ("the group", "method"),
    (Column("x/y@1", "x & y"), Column("gain", "gain_%", 1, percent=True)),
    (
        *(
            ((f"[{name}", name), (Cell(at / 7, 0.01, 1, True), Cell(-0.123, 0.02)))
            for at, name in enumerate(NAMES)
        ),
        (("same", "one"), (Cell(NAN), Cell(0.5, NAN))),
        (("same", "two"), (Cell(0.25, None, 2), Cell(NAN, 0.1))),
    ),
    ("± and † are 100% clear_",),
)


def cells(table: Table, method: str) -> tuple[Cell, ...]:
    return next(cells for labels, cells in table.rows if labels[1] == method)


# --- what stands in them


def test_leaderboard():
    first, second = leaderboard(SUMMARY, COMPARISON)
    assert first.title == "food, selected on validation"
    assert second.title == "food, selected on recency, which anticipates its shift"
    assert [column.title for column in first.columns] == ["IID NDCG@20", "OOD NDCG@20"]
    # Groups stand together, both in the order in which they come.
    assert [labels for labels, _ in first.rows] == [
        ("reference", "MostPop"),
        ("reference", "EASE"),
        ("sampler", "dns"),
        ("sampler", "failed"),
    ]
    iid, ood = cells(first, "dns")
    assert (iid.value, iid.place, iid.differs) == (0.4, 1, False)
    assert (ood.value, ood.place, ood.differs) == (0.2, 2, True)
    assert ood.half_width == pytest.approx(0.02)
    # Equal values share a place; neither p before the correction nor another selection's marks.
    assert [cells(first, name)[1].place for name in ("MostPop", "EASE")] == [1, 1]
    assert not cells(first, "EASE")[1].differs
    assert cells(first, "EASE")[0].place == 2
    assert all(math.isnan(cell.value) and cell.place is None for cell in cells(first, "failed"))
    assert first.notes[1] == (
        "† differs from MostPop at p < 0.05 (paired bootstrap over users, Holm's correction); "
        "tested: OOD NDCG@20"
    )
    assert cells(leaderboard(SUMMARY, COMPARISON, alpha=0.1)[0], "EASE")[1].differs


def test_leaderboard_without_tests():
    first, _ = leaderboard(SUMMARY)
    assert not any(cell.differs for _, row in first.rows for cell in row)
    assert len(first.notes) == 1
    assert not leaderboard(SUMMARY.filter(n_seeds=1))[0].notes


def test_a_table_says_what_its_intervals_are_over():
    one = SUMMARY.with_columns(n_seeds=1)
    assert leaderboard(one)[0].notes == overview(one)[0].notes == (HALF_WIDTH,)
    assert leaderboard(SUMMARY)[0].notes == overview(SUMMARY)[0].notes == (HALF_WIDTH_OVER_SEEDS,)
    assert not overview(SUMMARY.filter(n_seeds=1))[0].notes


def test_more_is_not_always_better():
    table = leaderboard(SUMMARY, columns=[("test_ood", "gini@20")])[1]
    assert cells(table, "dns")[0].place is None
    assert table.columns[0].title == "OOD Gini@20"


def test_baselines_that_differ_by_column():
    iid = COMPARISON[:1].with_columns(split=pl.lit("test_iid"), baseline=pl.lit("EASE"))
    first, _ = leaderboard(SUMMARY, pl.concat([COMPARISON, iid]))
    assert first.notes[1].endswith("tested against: EASE in IID NDCG@20, MostPop in OOD NDCG@20")
    assert cells(first, "dns")[0].differs


def test_headline_tables():
    headline = Headline(
        pl.DataFrame(
            {
                "selection": ["valid"], "method": ["ours"], "group": ["sampler"], "mean": [0.25],
                "low": [0.2], "high": [0.3], "median": [-0.01],
                "n_seeds": [3], "n_cells": [2], "n_left_out": [1],
            }
        ),
        pl.DataFrame(
            {
                "selection": ["valid"] * 2, "group": ["sampler"] * 2,
                "dataset": ["a", "b"], "metric": ["ndcg@20"] * 2,
                "value": [0.3, 0.1], "rival": ["dns", None], "rival_value": [0.2, None],
                "gain": [0.5, NAN], "n_rivals": [2, 0],
            }
        ),
        pl.DataFrame(
            {
                "selection": ["valid", "valid", "other"], "method": ["dns", "ours", "dns"],
                "group": ["sampler", "ours", "sampler"], "rank": [2.0, 1.0, NAN],
                "n_cells": [3, 3, 0],
            }
        ),
        pl.DataFrame(
            {
                "selection": ["valid", "valid"], "method": ["ours"] * 2, "group": ["a", "b"],
                "rival": ["dns", "ease"], "mean": [0.5, 0.25], "low": [0.4, 0.2],
                "high": [0.6, 0.3], "median": [0.5, -0.125], "n_won": [2, 0], "n_cells": [2, 1],
            }
        ),
    )  # fmt: skip
    average, duels, details, ranks = headline_tables(headline)
    lines = render([duels], "markdown").splitlines()
    assert lines[4] == "| valid | b | ease | -12.5% | 0 | 1 | +25.0% ± 5.0% |"
    assert lines[5] == "|  | a | dns | +50.0% | 2 | 2 | +50.0% ± 10.0% |"
    assert average.rows[0][1][0].half_width == pytest.approx(0.05)
    text = render([average], "text")
    assert "+25.0% ± 5.0% │  -1.0% │     3 │     2 │        1 │" in text
    lines = render([details], "markdown").splitlines()
    assert lines[4] == "| valid | sampler | a | NDCG@20 | dns | 0.3000 | 0.2000 | +50.0% |"
    assert lines[5] == "|  | sampler | b | NDCG@20 | - | 0.1000 | - | - |"
    assert [labels for labels, _ in ranks.rows] == [
        ("valid", "ours", "ours"),
        ("valid", "sampler", "dns"),
        ("other", "sampler", "dns"),
    ]


def test_headline_against_several_groups_in_every_form():
    rows = {
        "selection": ["valid+dial"] * 2, "method": ["ours"] * 2,
        "group": ["sampler", "all others"], "mean": [0.25, -0.125], "low": [0.2, -0.2],
        "high": [0.3, -0.05], "median": [0.24, -0.11], "n_seeds": [3] * 2, "n_cells": [8] * 2,
        "n_left_out": [0] * 2,
    }  # fmt: skip
    nothing = {name: pl.Series([], dtype=pl.String) for name in ("selection", "group", "rank")}
    empty = pl.DataFrame(nothing)
    average = headline_tables(Headline(pl.DataFrame(rows), empty, empty, empty))[0]
    for form, lines in {
        "text": ["│ sampler       │ +25.0% ± 5.0% │ +24.0% │",
                 "│ all others    │ -12.5% ± 7.5% │"],
        "markdown": ["| valid+dial | ours | sampler | +25.0% ± 5.0% | +24.0% | 3 | 8 | 0 |",
                     "|  | ours | all others | -12.5% ± 7.5% | -11.0% | 3 | 8 | 0 |"],
        "latex": [r"valid+dial & ours & sampler & $+25.0\% \pm 5.0\%$ & $+24.0\%$",
                  r" & ours & all others & $-12.5\% \pm 7.5\%$ & $-11.0\%$"],
    }.items():  # fmt: skip
        for line in lines:
            assert line in render([average], form), form
    (document,) = json.loads(render([average], "json"))
    values = {
        row["over_the_best"]: (row["values"]["gain"]["value"], row["values"]["median"]["value"])
        for row in document["rows"]
    }
    assert values == {"sampler": (0.25, 0.24), "all others": (-0.125, -0.11)}


def test_trainings():
    names = [
        *("dataset", "method", "selection", "seed", "split", "metric", "value"),
        *("epoch", "epochs", "seconds"),
    ]
    rows = [
        ("food", "EASE", "valid", 0, "valid", "ndcg@20 (selected)", 0.5, 0, 0, 2.0),
        ("food", "EASE", "valid+dial", 0, "valid", "dial", 0.0, 0, 0, 2.0),
        ("food", "dns", "valid", 0, "valid", "ndcg@20 (selected)", 0.5, 3, 10, 20.0),
        ("food", "dns", "valid", 1, "test_ood", "dial", 0.5, 4, 12, 30.0),
        ("food", "dns", "valid+dial", 0, "valid", "dial", 0.25, 5, 10, 20.0),
        ("food", "dns", "valid+dial", 0, "test_ood", "ndcg@20", 0.7, 5, 10, 20.0),
        ("food", "dns", "valid+dial", 1, "valid", "dial", -1.0, 6, 12, 30.0),
        ("yelp", "dns", "valid", 0, "valid", "ndcg@20", 0.5, 1, 1, 1.0),
    ]
    food, yelp = trainings(pl.DataFrame(rows, schema=names, orient="row"))
    assert food.title == "food, how the methods trained"
    assert [column.title for column in food.columns] == ["dial", "best epoch", "epochs", "seconds"]
    found = {labels: tuple(cell.value for cell in row) for labels, row in food.rows}
    assert list(found) == [
        ("valid", "EASE"), ("valid", "dns"), ("valid+dial", "EASE"), ("valid+dial", "dns"),
    ]  # fmt: skip
    for labels, wanted in {
        ("valid", "EASE"): (NAN, NAN, NAN, 2),
        ("valid", "dns"): (NAN, 3.5, 11, 25),
        ("valid+dial", "EASE"): (0, NAN, NAN, 2),
        ("valid+dial", "dns"): (-0.375, 5.5, 11, 25),
    }.items():
        assert found[labels] == pytest.approx(wanted, nan_ok=True)
    assert len(yelp.rows) == 1
    assert "| valid+dial | EASE | 0.00 | - | - | 2.0 |" in render([food], "markdown")


# --- how they are written


def markdown_cells(text: str) -> tuple[list[list[str]], list[str]]:
    """Rows of plain text, and what is bold outside the headings, by a Markdown parser."""
    html = MarkdownIt("commonmark").enable("table")
    rows: list[list[str]] = []
    strong = []
    in_table = False
    for token in html.parse(text):
        in_table = (in_table or token.type == "table_open") and token.type != "table_close"
        if token.type == "tr_open":
            rows.append([])
        if token.type == "inline" and in_table:
            children = token.children or []
            kinds = {child.type for child in children}
            assert kinds <= {"text", "text_special", "strong_open", "strong_close"}, kinds
            rows[-1].append("".join(child.content for child in children))
            if "strong_open" in kinds:
                at = [child.type for child in children].index("strong_open")
                strong.append(children[at + 1].content)
    return rows, strong


def test_markdown_by_a_parser():
    rows, strong = markdown_cells(render([NASTY], "markdown"))
    assert rows[0] == ["the group", "method", "x & y", "gain_%"]
    for at, (name, row) in enumerate(zip(NAMES, rows[1:], strict=False)):
        assert row == [f"[{name}", name, f"{at / 7:.4f}† ± 0.0100", "-12.3% ± 2.0%"]
    assert rows[-2:] == [["same", "one", "-", "+50.0%"], ["", "two", "0.2500", "-"]]
    assert strong == [f"{at / 7:.4f}" for at in range(len(NAMES))]


class TeX:
    """Reads what LaTeX would print, of the commands that are in use; refuses anything else."""

    SYMBOLS: ClassVar = {
        "textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^", "textless": "<",
        "textgreater": ">", "textbar": "|", "pm": "±", "dagger": "†",
    }  # fmt: skip

    def __init__(self, source: str) -> None:
        self.source, self.at, self.maths = source, 0, False

    def read(self) -> str:
        text = self.group(closed=False)
        assert self.at == len(self.source) and not self.maths
        return text

    def group(self, *, closed: bool) -> str:
        text = ""
        while self.at < len(self.source):
            letter = self.source[self.at]
            self.at += 1
            if letter == "\\":
                text += self.command()
            elif letter == "{":
                text += self.group(closed=True)
            elif letter == "}":
                assert closed, "a brace too many"
                return text
            elif letter == "$":
                self.maths = not self.maths
            elif letter == "^":
                assert self.maths, "^ outside of mathematics"
            else:
                assert letter not in "&#%_~", f"{letter} is not escaped"
                text += letter
        assert not closed, "a brace too few"
        return text

    def command(self) -> str:
        name = re.compile(r"[a-zA-Z]+|.").match(self.source, self.at).group()
        self.at += len(name)
        if not name.isalpha():
            assert name in "{}$&#%_"
            return name
        if name in ("mathbf", "underline"):
            assert self.source[self.at] == "{" and self.maths
            return ""
        if name in ("pm", "dagger"):
            assert self.maths
        else:
            assert self.source[self.at : self.at + 2] == "{}", "would swallow the next space"
        return self.SYMBOLS[name]


def escaped(text: str) -> str:
    """``text`` as it is written in a title."""
    table = Table(text, ("a",), (), ())
    return re.search(r"\\caption\{(.*)\}\n", render([table], "latex")).group(1)


@given(st.text(st.sampled_from("\\{}$&#%_~^<>|[]*\"'-ab1 ρ±†\n\x1b\u202e"), max_size=12))
def test_latex_escapes(text):
    assert TeX(escaped(text)).read() == visible(text)


@pytest.mark.parametrize("form", ["text", "markdown", "latex"])
def test_no_name_breaks_a_row_or_is_obeyed(form):
    name = "a\n| b\r\x1b[2J\u2028[/]"
    table = Table(name, (name,), (Column("c", name),), (((name,), (Cell(1.0),)),), (name,))
    ours = Table("x", ("x",), (Column("c", "x"),), ((("x",), (Cell(1.0),)),), ("x",))
    written = render([table], form)
    assert visible(written, keep="\n") == written
    assert written.count("\n") == render([ours], form).count("\n")


def test_latex_by_a_reader():
    source = render([NASTY, NASTY], "latex")
    begun: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", source):
        assert kind == "begin" or begun.pop() == name
        if kind == "begin":
            begun.append(name)
    assert not begun
    assert source.count(r"\toprule") == source.count(r"\bottomrule") == 2
    assert r"\begin{tabular}{llrr}" in source
    body = source[: len(source) // 2].partition(r"\toprule")[2].partition(r"\bottomrule")[0]
    lines = [line.strip() for line in body.splitlines() if line.strip()]
    # A rule below the titles, and between groups.
    assert lines.count(r"\midrule") == 1 + len(NAMES)
    rows = []
    for line in lines:
        if line != r"\midrule":
            assert line.endswith(r" \\") and not line.startswith(("[", "*"))
            parts = re.split(r"(?<!\\)&", line.removesuffix(r" \\"))
            rows.append([TeX(part.strip()).read() for part in parts])
    assert rows[0] == ["the group", "method", "x & y", "gain_%"]
    for at, (name, row) in enumerate(zip(NAMES, rows[1:], strict=False)):
        number = [f"{at / 7:.4f}† ± 0.0100", "-12.3% ± 2.0%"]
        assert row == [f"[{name}".strip(), name, *number]
    assert rows[-2:] == [["same", "one", "-", "+50.0%"], ["", "two", "0.2500", "-"]]
    assert r"$\mathbf{0.1429}^{\dagger} \pm 0.0100$" in source
    assert r"$\underline{0.2500}$" in source


def test_json_holds_numbers():
    (found,) = json.loads(render([NASTY], "json"))
    assert found["title"] == NASTY.title and found["notes"] == list(NASTY.notes)
    row = found["rows"][1]
    assert (row["the_group"], row["method"]) == ("[[bold]x", "[bold]x")
    assert row["values"] == {
        "x/y@1": {"value": 1 / 7, "half_width": 0.01, "place": 1, "differs": True},
        "gain": {"value": -0.123, "half_width": 0.02, "place": None, "differs": False},
    }
    assert found["rows"][-2]["values"]["x/y@1"]["value"] is None
    assert found["rows"][-1]["the_group"] == "same"


def test_text():
    text = render([NASTY], "text")
    lines = text.splitlines()
    assert lines[0] == NASTY.title and lines[-1] == NASTY.notes[0]
    for name in NAMES:
        if "|" not in name:
            assert any(f" {name} " in line and "† ± 0.0100" in line for line in lines), name
    assert "\x1b" not in text and "bold:" not in text
    styled = render([NASTY], "text", styled=True)
    assert "\x1b[1m0.1429\x1b[0m† ± 0.0100" in styled and "\x1b[4m0.2500\x1b[0m" in styled
    assert styled.endswith("bold: best of its column; underlined: second")


def test_nothing_is_cut():
    wide = Table("t", ("a",), tuple(Column("c", "c" * 40) for _ in range(9)), ())
    assert render([wide], "text").count("c" * 40) == 9


def test_unknown_form():
    with pytest.raises(InputError, match="did you mean 'markdown'"):
        render([NASTY], "markdwn")
    assert render([], "json") == "[]"
    assert render([], "text") == ""


def test_overview_has_a_column_per_dataset_and_pools_what_anticipates():
    elsewhere = SUMMARY.filter(method="dns", split="test_ood", metric="ndcg@20").with_columns(
        dataset=pl.lit("yelp")
    )
    awaited = pl.concat(
        [
            elsewhere.with_columns(selection=pl.lit("recency"), mean=pl.lit(0.7)),
            elsewhere.with_columns(
                dataset=pl.lit("food"), selection=pl.lit("tempered"), mean=pl.lit(0.6)
            ),
        ]
    ).with_columns(anticipated=pl.lit(True))
    plain, anticipated = overview(pl.concat([SUMMARY, elsewhere, awaited]), COMPARISON)
    assert [column.name for column in plain.columns] == ["food", "yelp"]
    assert cells(plain, "dns") == (
        Cell(0.2, pytest.approx(0.02), 2, True),
        Cell(0.2, pytest.approx(0.02), 1),
    )
    assert cells(plain, "EASE")[0].place == 1
    assert math.isnan(cells(plain, "EASE")[1].value)
    assert [label for label, _ in plain.rows] == [
        ("reference", "MostPop"), ("reference", "EASE"), ("sampler", "dns"),
    ]  # fmt: skip
    assert anticipated.title == "OOD NDCG@20, selected for the anticipated shift"
    assert [column.name for column in anticipated.columns] == ["yelp", "food"]
    assert [cell.value for cell in cells(anticipated, "dns")] == [0.7, 0.6]


def test_overview_with_and_without_a_dial():
    """Each pools what anticipates, apart from the other."""
    own = SUMMARY.filter(method="dns", split="test_ood", metric="ndcg@20").with_columns(
        selection=pl.lit("recency"), anticipated=pl.lit(True)
    )
    other = own.with_columns(dataset=pl.lit("yelp"), selection=pl.lit("tempered"))
    dialled = [
        frame.with_columns(selection=pl.col("selection") + "+dial", mean=pl.lit(0.6))
        for frame in (own, other)
    ]
    plain, turned = overview(pl.concat([own, other, *dialled]))
    assert plain.title == "OOD NDCG@20, selected for the anticipated shift"
    assert turned.title == "OOD NDCG@20, selected for the anticipated shift, with the dial"
    assert [cell.value for cell in cells(plain, "dns")] == [0.2, 0.2]
    assert [cell.value for cell in cells(turned, "dns")] == [0.6, 0.6]
    assert leaderboard(dialled[0])[0].title == (
        "food, selected on recency, with the dial, which anticipates its shift"
    )
