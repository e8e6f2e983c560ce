"""The report of an audit: what is lost under which shift, and what to use instead."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from cnsdiff.audit.audit import FILE
from cnsdiff.audit.settings import SCHEMA_VERSION
from cnsdiff.audit.wording import metric_name
from cnsdiff.errors import RunError
from cnsdiff.palette import SPLITS, method_styles
from cnsdiff.report.document import Block, Document, Facts, Figure, Prose, Section, Source
from cnsdiff.tables import Cell, Column, Table

_ENDED = {
    "patience": "nothing better came",
    "epochs": "all epochs done",
    "time": "the clock",
    "itself": "-",
}


def audit_document(path: str | Path) -> Document:
    """The report of an audit's directory.

    Raises
    ------
    RunError
        It holds no finished audit, or one of another version.
    """
    result = _read(Path(path) / FILE)
    shifts = result["shifts"]
    return Document(
        title=f"Audit of {result['name']}",
        verdict=result["verdict"],
        summary=_summary(result),
        sections=[
            Section("Loss", _loss_blocks(result)),
            Section("What to use", _use_blocks(result)),
            *(Section(shift["title"], _shift_blocks(result, shift)) for shift in shifts),
            *([Section("Your own", _outside_blocks(result))] if _outside(result) else []),
            Section("Limits", _limit_blocks(result)),
            Section("Log", _log_blocks(result)),
        ],
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(
            f"{file.parent}: holds no finished audit; run cnsdiff audit LOG --out {file.parent}"
        ) from error
    except (OSError, ValueError) as error:
        raise RunError(f"{file}: is damaged; run the audit again") from error
    if not isinstance(result, dict) or result.get("schema_version") != SCHEMA_VERSION:
        raise RunError(f"{file}: is of another version of audits; run the audit again")
    return result


def _summary(result: Mapping[str, Any]) -> str:
    said = list(result["more_verdicts"])
    said += [
        f"**{shift['title']}:** {shift['recommendation']['words']}" for shift in result["shifts"]
    ]
    cut = [
        shift["title"]
        for shift in result["shifts"]
        if any(row["stopped_by"] == "time" for row in shift["table"]) or shift["unfinished"]
    ]
    if cut:
        every = len(cut) == len(result["shifts"])
        where = "" if every else f" under {' and '.join(cut)}"
        said.append(
            f"**Budget:** {result['budget']['words']} ended trainings early{where}; see "
            "[Limits](#limits)."
        )
    warnings = [w for shift, one in _outside(result) for w in one["warnings"]]
    if warnings:
        said.append(f"**Caution:** {warnings[0]}")
    return "\n\n".join(said)


# --- Loss


def short_table(result: Mapping[str, Any]) -> Table:
    """Every shift on few lines: each method as usually read, and those that expect the shift."""
    name = metric_name(result["metric"])
    rows = []
    for shift in result["shifts"]:
        shown = _shown(shift)
        places = {key: _places([row[key][0] for row in shown]) for key in ("iid", "ood")}
        for at, row in enumerate(shown):
            cells = (
                _cell(row["iid"], places["iid"][at]),
                _cell(row["ood"], places["ood"][at]),
                _cell(row["loss"]),
            )
            rows.append(((shift["title"], row["title"]), cells))
    return Table(
        f"{name} today (IID) and under each shift (OOD)",
        ("shift", "setting"),
        (
            Column("iid", "IID"),
            Column("ood", "OOD"),
            Column("loss", "loss", digits=0, percent=True, signed=False),
        ),
        tuple(rows),
        ("± half the 95 % interval over users",),
    )


def _plain_rows(shift: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The row of each method as it is read when no shift is expected."""
    first: dict[str, dict[str, Any]] = {}
    for row in shift["table"]:
        plain = "valid+dial" if row["method"] == "cnsdiff" else "valid"
        if row["selection"] in (plain, "as given"):
            first.setdefault(row["method"], row)
    return list(first.values())


def _cell(
    estimate: Sequence[float | None], place: int | None = None, differs: bool = False
) -> Cell:
    value, low, high = (float("nan") if x is None else float(x) for x in estimate)
    return Cell(value, (high - low) / 2, place, differs)


def _beside(found: Mapping[str, Any], *, same: bool = False) -> Cell:
    """A difference; none of a setting from itself."""
    if same:
        return Cell(math.nan)
    return _cell(found["difference"], differs=found["sign"] != 0)


def _places(values: Sequence[float | None]) -> list[int | None]:
    best = sorted({v for v in values if v is not None}, reverse=True)[:1]
    return [1 if value in best else None for value in values]


def _loss_blocks(result: Mapping[str, Any]) -> list[Block]:
    rows, labels = [], []
    for shift in result["shifts"]:
        for row in _shown(shift):
            rows.append(row)
            labels.append(shift["title"])
    if not rows:
        return [Prose("Nothing was measured.")]
    columns = (
        Column("iid", "IID"),
        Column("matched", "IID, matched"),
        Column("ood", "OOD"),
        Column("loss", "loss", digits=0, percent=True, signed=False),
    )
    table = Table(
        f"{metric_name(result['metric'])} today and under each shift",
        ("shift", "setting"),
        columns,
        tuple(
            (
                (label, row["title"]),
                (
                    _cell(row["iid"]),
                    _cell(row["iid_matched"]),
                    _cell(row["ood"]),
                    _cell(row["loss"]),
                ),
            )
            for label, row in zip(labels, rows, strict=True)
        ),
        (
            "± half the 95 % interval over users.",
            "Loss is 1 − OOD / matched IID: a user with more items to find is easier to please, so "
            "IID accuracy is read as if its users had as many to find as those of the OOD test.",
        ),
    )
    return [
        _loss_figure(result),
        Prose(
            "IID is today's traffic: pairs held out at random. OOD is the same model on pairs "
            "that differ as the shift says. A loss whose interval holds 0 is none that this log "
            "can show."
        ),
        table,
    ]


def _shown(shift: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What is compared at a glance: each method as usually read, and the best that expect it."""
    advice = shift["recommendation"]
    plain = {row["key"] for row in _plain_rows(shift)}
    wanted = plain | {advice[key] for key in ("use", "plain", "expected", "trained", "reference")}
    return [row for row in shift["table"] if row["key"] in wanted]


def _loss_figure(result: Mapping[str, Any]) -> Figure:
    import plotly.graph_objects as go

    figure = go.Figure()
    points = []
    methods = dict.fromkeys(r["method"] for s in result["shifts"] for r in _plain_rows(s))
    styles = method_styles(methods)
    titles = {r["method"]: r["title"] for s in result["shifts"] for r in _plain_rows(s)}
    lanes = len(methods)
    shifts = result["shifts"]
    for lane, method in enumerate(methods):
        xs, ys, highs, lows = [], [], [], []
        for at, shift in enumerate(shifts):
            row = next((r for r in _plain_rows(shift) if r["method"] == method), None)
            if row is None or None in row["loss"]:
                continue
            value, low, high = row["loss"]
            xs.append(value)
            ys.append(at + (lane - (lanes - 1) / 2) * 0.8 / max(lanes, 1))
            highs.append(high - value)
            lows.append(value - low)
            points.append(
                {"shift": shift["title"], "method": titles[method]}
                | {"loss": value, "low": low, "high": high}
            )
        figure.add_scatter(
            x=xs,
            y=ys,
            mode="markers",
            name=titles[method],
            marker=styles[method].marker,
            error_x={
                "type": "data",
                "array": highs,
                "arrayminus": lows,
                "color": styles[method].colour,
                "thickness": 1.5,
            },
            hovertemplate="%{x:.0%}<extra>" + titles[method] + "</extra>",
        )
    figure.update_xaxes(title="share of accuracy lost", tickformat=".0%", zeroline=True)
    figure.update_yaxes(
        tickvals=list(range(len(shifts))),
        ticktext=[shift["title"] for shift in shifts],
        range=[len(shifts) - 0.5, -0.5],
        showgrid=False,
    )
    figure.update_layout(height=120 + 110 * len(shifts))
    return Figure(
        "What each loses",
        "Each method as usually read, no shift expected; strokes are 95 % intervals over users. "
        "Left is better.",
        figure,
        pl.DataFrame(points),
    )


# --- What to use


def _use_blocks(result: Mapping[str, Any]) -> list[Block]:
    rows = []
    for shift in result["shifts"]:
        advice = shift["recommendation"]
        by_key = {row["key"]: row for row in shift["table"]}
        row = by_key[advice["use"]]
        rows.append(
            (
                (shift["title"], row["title"]),
                (
                    _cell(row["ood"]),
                    _beside(advice["use_over_usual"], same=advice["use"] == shift["usual"]),
                    _cell(row["iid"]),
                    _beside(advice["use_costs"], same=advice["use"] == advice["plain"]),
                ),
            )
        )
    columns = (
        Column("ood", "under the shift"),
        Column("brings", "more than the usual"),
        Column("iid", "today"),
        Column("costs", "beside the best today"),
    )
    blocks: list[Block] = [
        Prose(
            "Which setting is best for a shift is chosen on train and validation alone: of all "
            "methods the one with the best validation value under the objective that expects "
            "the shift. The tests had no part in the choice; they judge it, and where it shows no "
            "gain under the shift, what is best today is kept."
        ),
        Table(
            "What to use",
            ("if you expect", "use"),
            columns,
            tuple(rows),
            (
                "± half the 95 % interval over users; † where the interval of a difference leaves "
                "0 out.",
            ),
        ),
    ]
    for shift in result["shifts"]:
        advice = shift["recommendation"]
        said = [f"**{shift['title']}.** {advice['words']}", advice["reference_words"]]
        blocks.append(Prose("\n\n".join(text for text in said if text)))
        if advice["code"]:
            blocks.append(Source(f"use-{shift['name']}.py", advice["code"]))
        if advice["commands"]:
            if advice["commands_of"] != advice["title"]:
                blocks.append(Prose(f"To train {advice['commands_of']}:"))
            blocks.append(Source(f"train-{shift['name']}.sh", " && \\\n".join(advice["commands"])))
    return blocks


# --- One shift


def _shift_blocks(result: Mapping[str, Any], shift: Mapping[str, Any]) -> list[Block]:
    table = shift["table"]
    against = _against(result, shift)
    blocks: list[Block] = [
        Prose(
            f"{shift['meaning']} {shift['size']['words']}\n\nSet for this shift: epoch and dial "
            f"are picked on validation pairs weighed by `{shift['anticipate']}`."
        ),
        _test_figure(result, shift),
        against,
        _deciles_figure(shift),
        _distance_table(shift),
        Table(
            "How they trained",
            ("setting", "ended by"),
            (
                Column("validation", "validation"),
                Column("dial", "dial", digits=2),
                Column("epochs", "epochs", digits=0),
                Column("seconds", "seconds", digits=1),
            ),
            tuple(
                (
                    (row["title"], _ENDED.get(row["stopped_by"], row["stopped_by"])),
                    (
                        Cell(_number(row["validation"])),
                        Cell(_number(row["dial"])),
                        Cell(_number(row["epochs"] or None)),
                        Cell(_number(row["seconds"] or None)),
                    ),
                )
                for row in table
                if row["selection"] != "as given"
            ),
            (
                "Validation is the value of the objective that picked epoch and dial; values of "
                "different objectives do not compare.",
                "Settings of one method come from one training.",
            ),
        ),
    ]
    if shift["limits"]:
        blocks.append(Prose("\n\n".join(shift["limits"])))
    return blocks


def _against(result: Mapping[str, Any], shift: Mapping[str, Any]) -> Table:
    """All settings on both tests, those that differ from the usual recommender marked."""
    name = metric_name(result["metric"])
    rows = []
    places = {key: _places([r[key][0] for r in shift["table"]]) for key in ("iid", "ood")}
    for at, row in enumerate(shift["table"]):
        differs = {
            test: row["against_usual"].get(test, {}).get("p_holm", 1.0) < 0.05
            for test in ("test_iid", "test_ood")
        }
        rows.append(
            (
                (row["title"],),
                (
                    _cell(row["iid"], places["iid"][at], differs["test_iid"]),
                    _cell(row["ood"], places["ood"][at], differs["test_ood"]),
                    _cell(row["loss"]),
                ),
            )
        )
    usual = next((r["title"] for r in shift["table"] if r["key"] == shift["usual"]), "")
    users = shift["n_users"]
    return Table(
        "All settings",
        ("setting",),
        (
            Column("iid", f"IID {name}"),
            Column("ood", f"OOD {name}"),
            Column("loss", "loss", digits=0, percent=True, signed=False),
        ),
        tuple(rows),
        (
            f"{users['test_iid']:,} users of the IID test and {users['test_ood']:,} of the OOD "
            "test; ± half the 95 % interval over them.",
            f"† differs from {usual} at p < 0.05 (paired bootstrap over users, Holm's correction).",
        ),
    )


def _test_figure(result: Mapping[str, Any], shift: Mapping[str, Any]) -> Figure:
    import plotly.graph_objects as go

    figure = go.Figure()
    rows = _shown(shift)
    labels = [row["title"] for row in rows]
    points = []
    for key, split, title in (
        ("iid_matched", "test_iid", "today (IID, matched)"),
        ("ood", "test_ood", "under the shift (OOD)"),
    ):
        style = SPLITS[split]
        values = [[_number(x) for x in row[key]] for row in rows]
        points += [
            {"setting": label, "test": title, "value": v, "low": low, "high": high}
            for label, (v, low, high) in zip(labels, values, strict=True)
        ]
        figure.add_scatter(
            x=[v for v, _, _ in values],
            y=labels,
            mode="markers",
            name=title,
            marker=style.marker,
            error_x={
                "type": "data",
                "array": [high - v for v, _, high in values],
                "arrayminus": [v - low for v, low, _ in values],
                "color": style.colour,
                "thickness": 1.5,
            },
        )
    figure.update_xaxes(title=metric_name(result["metric"]), rangemode="tozero")
    figure.update_yaxes(categoryorder="array", categoryarray=labels[::-1])
    figure.update_layout(height=140 + 42 * len(labels))
    return Figure(
        f"{shift['title']}: today and under the shift",
        "The further a method's two marks lie apart, the more it loses; strokes are 95 % "
        "intervals over users.",
        figure,
        pl.DataFrame(points),
    )


def _deciles_figure(shift: Mapping[str, Any]) -> Figure:
    import plotly.graph_objects as go

    figure = go.Figure()
    points = []
    for split, title in (("train", "train"), ("test_iid", "IID test"), ("test_ood", "OOD test")):
        shares = shift["size"]["splits"][split]["deciles"]
        tenths = [str(at + 1) for at in range(len(shares))]
        points += [
            {"split": title, "tenth": tenth, "share": share}
            for tenth, share in zip(tenths, shares, strict=True)
        ]
        figure.add_bar(x=tenths, y=shares, name=title, marker={"color": SPLITS[split].colour})
    figure.update_xaxes(title="tenth of the items, most popular first", type="category")
    figure.update_yaxes(title="share of the pairs", tickformat=".0%")
    return Figure(
        f"{shift['title']}: popularity of the items",
        "Share of each split's pairs on each tenth of the items by popularity in train.",
        figure,
        pl.DataFrame(points),
    )


def _distance_table(shift: Mapping[str, Any]) -> Table:
    splits = shift["size"]["splits"]
    rows = []
    for split, title in (
        ("valid", "validation"),
        ("test_iid", "IID test"),
        ("test_ood", "OOD test"),
    ):
        for axis in ("items", "users", "time"):
            found = splits[split].get(axis)
            if found:
                chance = _number(found["chance"])
                rows.append(((title, axis), (Cell(found["js"]), Cell(chance))))
    return Table(
        "How large the shift is",
        ("split", "of its"),
        (
            Column("js", "distance from train", digits=3),
            Column("chance", "by chance alone", digits=3),
        ),
        tuple(rows),
        (
            "Jensen–Shannon divergence in nats, at most 0.693; only what lies beyond chance is "
            "shift.",
        ),
    )


# --- Recommenders that we did not train


def _outside(result: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    found = [(shift, one) for shift in result["shifts"] for one in shift["outside"]]
    names = list(dict.fromkeys(one["name"] for _, one in found))
    return sorted(found, key=lambda pair: names.index(pair[1]["name"]))


def _outside_blocks(result: Mapping[str, Any]) -> list[Block]:
    every = _outside(result)
    blocks: list[Block] = []
    warned: dict[str, list[str]] = {}
    for shift, one in every:
        for text in one["warnings"]:
            warned.setdefault(text, []).append(shift["title"])
    blocks += [Prose(f"**{', '.join(titles)}:** {text}") for text, titles in warned.items()]
    rows = []
    for shift, one in every:
        beside = one["against"]["test_ood"]["expected"]
        today = one["against"]["test_iid"]["expected"]
        rows.append(
            (
                (one["name"], f"{shift['title']} ({metric_name(one['metric'])})"),
                (
                    _cell(one["iid"]),
                    _cell(one["ood"]),
                    _cell(one["loss"]),
                    _beside(today),
                    _beside(beside),
                ),
            )
        )
    blocks.append(
        Table(
            "Recommenders that were not trained here",
            ("recommender", "shift"),
            (
                Column("iid", "IID"),
                Column("ood", "OOD"),
                Column("loss", "loss", digits=0, percent=True, signed=False),
                Column("iid_beside", "IID, beside the chosen"),
                Column("ood_beside", "OOD, beside the chosen"),
            ),
            tuple(rows),
            (
                "The chosen is what validation chooses for the shift; † where the interval of the "
                "difference leaves 0 out.",
            ),
        )
    )
    for name in dict.fromkeys(one["name"] for _, one in every):
        own = [(shift, one) for shift, one in every if one["name"] == name]
        said = [" ".join([f"**{name}.**", *own[0][1]["caveats"]])]
        for shift, one in own:
            parts = [one["words"], *one["notes"]]
            parts += [one["dialled"]["words"]] if one["dialled"] else []
            said.append(f"**{shift['title']}:** {' '.join(parts)}")
        blocks.append(Prose("\n\n".join(said)))
    seen = [
        (
            (one["name"], shift["title"]),
            (
                _cell(one["signs"]["train"]),
                _cell(one["signs"]["held_out"]),
                _cell(one["signs"]["ratio"]),
            ),
        )
        for shift, one in every
    ]
    blocks.append(
        Table(
            "What the lists give away",
            ("recommender", "shift"),
            (
                Column("train", "of a user's train pairs", digits=1, percent=True, signed=False),
                Column("held_out", "of the held-out pairs", digits=1, percent=True, signed=False),
                Column("ratio", "ratio", digits=2),
            ),
            tuple(seen),
            (
                "Share that is in the first 20 places of the user's list, less the share in a "
                "stranger's. A ratio near 1 says that both were learnt from; held-out pairs below "
                "0, that they were left out as known.",
            ),
        )
    )
    return blocks


# --- Limits, and the log


def _limit_blocks(result: Mapping[str, Any]) -> list[Block]:
    limits: dict[str, list[str]] = {}
    for shift in result["shifts"]:
        for text in shift["limits"]:
            limits.setdefault(text, []).append(shift["title"])
    said = [f"**{', '.join(titles)}:** {text}" for text, titles in limits.items()]
    said += [f"**{one['name']}** was not measured: {one['reason']}." for one in result["left_out"]]
    said += [
        f"**{f['method']}** failed under {f['shift']}: {f['error']}." for f in result["failures"]
    ]
    said += result["notes"]
    budget = result["budget"]
    said.append(
        f"The budget was {budget['words']}, and one seed: where the clock ended a training, "
        "another machine may find other numbers, and another seed moves them a little. No "
        "settings were searched; cnsdiff benchmark compares methods with a search and several "
        "seeds."
    )
    said.append(
        "Intervals are over users: how sure a number is for people like these. A shift made from "
        "a log is a model of a shift; only an experiment with items shown at random is free of "
        "what the log's own recommender showed."
    )
    return [Prose("\n\n".join(text[0].upper() + text[1:] for text in said))]


def _log_blocks(result: Mapping[str, Any]) -> list[Block]:
    log, budget = result["log"], result["budget"]
    threshold = log["threshold"]
    facts = [
        ("log", log["source"]),
        ("rows", f"{log['rows']:,}"),
        ("users", f"{log['users']:,}"),
        ("items", f"{log['items']:,}"),
        *((f"{role} column", str(name)) for role, name in log["columns"].items()),
        ("positive", "every row" if threshold is None else f"ratings of {threshold:g} and more"),
        ("budget", f"{budget['words']} ({budget['used']:.0f} s used)"),
        ("metric", metric_name(result["metric"])),
        ("seed", str(result["seed"])),
        ("made by", result["created_by"]),
        ("checksum", log["checksum"][:16]),
    ]
    methods = [(one["title"], one["about"]) for one in result["methods"].values()]
    blocks: list[Block] = [Facts(facts)]
    if log["notes"]:
        blocks.append(Prose("\n\n".join(log["notes"])))
    blocks.append(Facts(methods))
    splits = [
        (
            (shift["title"],),
            tuple(
                Cell(float(shift["dataset"]["pairs"].get(name, math.nan)))
                for name in ("train", "valid", "test_iid", "test_ood")
            ),
        )
        for shift in result["shifts"]
    ]
    titles = ("train", "validation", "IID test", "OOD test")
    blocks.append(
        Table(
            "Pairs of each split",
            ("shift",),
            tuple(Column(title, title, digits=0) for title in titles),
            tuple(splits),
        )
    )
    return blocks


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
