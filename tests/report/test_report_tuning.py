"""The report of a study, however far it has come."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnsdiff.base.errors import RunError
from cnsdiff.base.search_space import Space
from cnsdiff.display.tables import Table
from cnsdiff.report.document import Document, Facts, Figure, Prose, Source, document_of
from cnsdiff.report.html import render_html
from cnsdiff.report.tuning import tuning_document
from cnsdiff.tuning.study import Importances, Share, Study, Trial

SPACES = {
    "backbone.dim": Space(choices=(32, 64, None)),
    "backbone.layers": Space(low=1, high=3, integer=True),
    "objective.repulsion": Space(low=0, high=1),
    "training.lr": Space(low=0.001, high=0.1, log=True),
}
CONFIG = {
    "seed": 7,
    "backbone": {"dim": 64, "layers": 2},
    "objective": {"repulsion": 0.3},
    "training": {"lr": 0.5},
}
SHARES = {
    "training.lr": Share(share=0.6, low=0.5, high=0.7),
    "backbone.dim": Share(share=0.2, low=0.1, high=0.3),
    "objective.repulsion": Share(share=0.15, low=0.1, high=0.2),
    "backbone.layers": Share(share=0.05, low=0.0, high=0.1),
}


def shares_of(n_trials: int, leader: str | None = "training.lr") -> Importances:
    return Importances(shares=SHARES, n_trials=n_trials, leader=leader)


def trial(number: int, value: float | None, state="completed", lr=0.01, **more) -> Trial:
    setting = {
        "backbone.dim": (64, 32, None)[number % 3],
        "backbone.layers": 1 + number % 3,
        "objective.repulsion": 0.1 * (number % 10),
        "training.lr": 0.5 if number == 0 else lr,
    }
    curve = () if value is None else ((1, value / 2), (2, value))
    known = value is not None
    course = {"value": value, "best_epoch": 2 * known, "epochs": 2 * known, "curve": curve}
    return Trial(number=number, state=state, setting=setting, **course, **more)


TRIALS = (
    trial(0, 0.25, seconds=90.0),
    trial(1, 0.2, "pruned"),
    trial(2, 0.3, lr=0.098),
    trial(3, None, "failed", error="a loss became <b>NaN</b>"),
    trial(4, 0.28, same_as=1),
)


def study(*trials: Trial, **changes) -> Study:
    dataset = {"name": "shop", "scenario": "temporal", "path": "data/shop", "fingerprint": "f"}
    facts = {
        "dataset": dataset,
        "objective": "ndcg@20",
        "config": CONFIG,
        "searched": SPACES,
        "left_out": ("objective.l2 is left out",),
        "asked": 8,
        "pruning": True,
        "trials": trials,
    }
    return Study(**{**facts, **changes})


def report(study: Study, folder: Path) -> Document:
    study.write(folder)
    if study.best is not None:
        (folder / "best.yaml").write_text("# Trial 2\ntraining: {lr: 0.098}\n")
    return document_of(folder)


def blocks(document: Document, title: str, kind: type) -> list:
    (section,) = (s for s in document.sections if s.title == title)
    return [block for block in section.blocks if isinstance(block, kind)]


def words(document: Document, title: str) -> str:
    return "\n".join(block.text for block in blocks(document, title, Prose))


def test_it_begins_with_the_verdict_and_what_to_make_of_it(tmp_path):
    found = report(
        study(*TRIALS, importances=shares_of(9)),
        tmp_path,
    )
    assert found.title == "Tuning on shop"
    assert found.verdict == (
        "The best of 5 settings reaches NDCG@20 0.3000 on validation, 20.0% over the "
        "configuration as given; training.lr accounts for 60% of the differences."
    )
    assert "it is optimistic" in found.summary
    assert "3 trials of 8 are missing" in found.summary
    page = render_html(found)
    assert "<b>NaN</b>" not in page
    assert "a loss became &lt;b&gt;NaN" in page


def test_what_was_searched_beside_what_is_best(tmp_path):
    found = report(
        study(*TRIALS, importances=shares_of(9)),
        tmp_path,
    )
    (facts,) = blocks(found, "Result", Facts)
    facts = dict(facts.rows)
    assert facts["best"] == "0.3000, trial 2"
    assert facts["as given"] == "0.2500"
    assert facts["trials"] == "5 of 8: 3 completed, 1 pruned, 1 failed"
    assert facts["time"] == "1:30"
    (table,) = blocks(found, "Result", Table)
    assert [labels for labels, _ in table.rows] == [
        ("training.lr", "0.098", "0.5", "0.001..0.1:log"),
        ("backbone.dim", "None", "64", "32,64,null"),
        ("objective.repulsion", "0.2", "0.3", "0..1"),
        ("backbone.layers", "3", "2", "1..3"),
    ]
    assert [cells[0].value for _, cells in table.rows] == pytest.approx([60, 20, 15, 5])
    assert table.notes == ("objective.l2 is left out",)
    assert "--search training.lr=0.001..0.4:log" in words(found, "Result")


def test_the_search_shows_every_trial(tmp_path):
    found = report(study(*TRIALS), tmp_path)
    history, curves = blocks(found, "Search", Figure)
    assert history.data["best_so_far"].to_list() == [0.25, 0.25, 0.3, 0.3, 0.3]
    assert history.data["state"].to_list() == [t.state for t in TRIALS]
    drawn = {trace.name: list(trace.x) for trace in history.figure.data}
    assert drawn == {"best so far": [0, 1, 2, 3, 4], "completed": [0, 2, 4], "pruned": [1]}
    assert curves.data.height == 8
    (table,) = blocks(found, "Search", Table)
    assert [labels[:3] for labels, _ in table.rows] == [
        ("0", "0.2500", "completed"),
        ("1", "0.2000", "pruned"),
        ("2", "0.3000", "best"),
        ("3", "", "failed"),
        ("4", "0.2800", "completed, as 1"),
    ]
    (failures,) = blocks(found, "Search", Facts)
    assert failures.rows == [("trial 3 failed", "a loss became <b>NaN</b>")]
    assert "1 trial ended early" in words(found, "Search")


def test_importances_and_how_rough_they_are(tmp_path):
    settled = report(
        study(*TRIALS, importances=shares_of(40)),
        tmp_path,
    )
    (figure,) = blocks(settled, "Importance", Figure)
    assert figure.data["setting"].to_list() == list(SHARES)
    assert list(figure.figure.data[0].y) == list(SHARES)[::-1]
    assert "rough" not in words(settled, "Importance")
    few = report(
        study(*TRIALS, importances=shares_of(9)),
        tmp_path,
    )
    assert "9 completed trials for 4 settings, and that training.lr comes first is settled" in (
        words(few, "Importance")
    )
    open_ = report(study(*TRIALS, importances=shares_of(40, None)), tmp_path)
    assert "depends on which trials are left out" in words(open_, "Importance")
    none = report(study(*TRIALS), tmp_path)
    assert not blocks(none, "Importance", Figure)
    assert "8 completed trials are needed for that, 3 are there" in words(none, "Importance")


def test_a_figure_for_each_setting(tmp_path):
    found = report(study(*TRIALS), tmp_path)
    figures = {figure.title: figure for figure in blocks(found, "Settings", Figure)}
    assert list(figures) == list(SPACES)
    for key, figure in figures.items():
        assert figure.data.columns == ["trial", "state", key, "value"]
        assert figure.data.height == 4
        assert figure.small
    axis = figures["training.lr"].figure.layout.xaxis
    assert axis.type == "log"
    assert 10 ** axis.range[0] < 0.001
    assert 10 ** axis.range[1] > 0.5, "what was given is outside of the space, and is shown"
    assert figures["backbone.dim"].figure.layout.xaxis.type == "category"
    assert list(figures["backbone.dim"].figure.layout.xaxis.categoryarray) == ["32", "64", "None"]
    assert figures["backbone.layers"].figure.layout.xaxis.dtick == 1


def test_what_to_run_next(tmp_path):
    found = report(study(*TRIALS), tmp_path)
    sources = {source.name: source.text for source in blocks(found, "Next", Source)}
    assert sources["best.yaml"] == "# Trial 2\ntraining: {lr: 0.098}\n"
    assert f"cnsdiff evaluate {tmp_path}/best --references" in sources["next.sh"]
    assert "cnsdiff report" not in sources["next.sh"]


@pytest.mark.parametrize(
    "trials",
    [(), (TRIALS[3],), (trial(0, None, "failed", error="no"),), TRIALS[:1], TRIALS[1:2]],
    ids=["none", "failed", "failed as given", "one", "pruned"],
)
def test_studies_that_have_not_come_far(trials, tmp_path):
    found = report(study(*trials), tmp_path)
    assert found.verdict == study(*trials).verdict("NDCG@20")
    assert [section.title for section in found.sections] == [
        *("Result", "Search", "Importance", "Settings", "Next")
    ]
    assert render_html(found)


def test_a_directory_without_a_study(tmp_path):
    with pytest.raises(RunError, match="holds no study"):
        tuning_document(tmp_path)
