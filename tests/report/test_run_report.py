"""The report of a run says what evaluation says, and does without what is not there."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from cnsdiff import ConfoundedWorld, Recommender, load_dataset, prepare
from cnsdiff.audit.shifts import SHIFTS
from cnsdiff.base.errors import InputError, RunError
from cnsdiff.base.text import Command
from cnsdiff.data import Dataset
from cnsdiff.display.progress import Reporting
from cnsdiff.display.tables import Table
from cnsdiff.display.wording import percent
from cnsdiff.references import REFERENCES, STANDARD
from cnsdiff.report.document import Document, Figure, Prose, Source
from cnsdiff.report.html import render_html, write_html
from cnsdiff.report.model import new_item_blocks, principal_plane
from cnsdiff.report.run import next_commands, run_document
from cnsdiff.samplers import Vectors
from cnsdiff.shifts import prepare_given

TRAINING = {"epochs": 3, "batch_size": 128, "select_on": "inverse-popularity"}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    made = ConfoundedWorld(n_users=80, n_items=60, exposures=25, seed=0).dataset("popularity")
    return made.save(tmp_path_factory.mktemp("data") / "world")


@pytest.fixture(scope="module")
def run(world, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "a run"
    Recommender("lightgcn", "cnsdiff", training=TRAINING, threads=1).fit(
        load_dataset(world), run=path
    )
    return path


@pytest.fixture(scope="module")
def report(run) -> Document:
    return run_document(run)


def section(document: Document, title: str) -> list:
    (found,) = (list(one.blocks) for one in document.sections if one.title == title)
    return found


def table(document: Document, title: str) -> dict[tuple[str, ...], dict[str, float]]:
    """The values of a table whose title begins so, by label and column."""
    (found,) = (
        block
        for one in document.sections
        for block in one.blocks
        if isinstance(block, Table) and block.title.startswith(title)
    )
    names = [column.name for column in found.columns]
    return {
        labels: dict(zip(names, (cell.value for cell in cells), strict=True))
        for labels, cells in found.rows
    }


def words(document: Document, title: str) -> str:
    return "\n".join(
        one.text for one in section(document, title) if isinstance(one, Prose | Source)
    )


def test_sections(report):
    assert [one.title for one in report.sections] == [
        "Accuracy", "Slices", "Dial", "New items", "Negatives", "Shift", "Training", "Next", "Run",
    ]  # fmt: skip
    figures = [b for one in report.sections for b in one.blocks if isinstance(b, Figure)]
    assert len(figures) > 15
    for figure in figures:
        assert figure.data.height and figure.caption and len(figure.figure.data)
        assert figure.figure.layout.width is None


def test_numbers_are_those_of_evaluate(run, world, report):
    data = load_dataset(world)
    reached = table(report, "What each method reaches")
    model = Recommender.load(run)
    measured = {"cnsdiff (this run)": model.evaluate(data)}
    from cnsdiff.evaluation import evaluate

    measured |= {name: evaluate(REFERENCES[name]().fit(data), data) for name in STANDARD}
    assert list(reached) == [(name,) for name in measured]
    for name, found in measured.items():
        for split in ("test_iid", "test_ood"):
            for metric in ("ndcg@20", "recall@20"):
                assert reached[(name,)][f"{split}/{metric}"] == pytest.approx(found[split][metric])
        assert reached[(name,)]["kept"] == pytest.approx(found.kept()["ndcg@20"])
    own = measured["cnsdiff (this run)"]
    before, after = own["test_iid"]["ndcg@20"], own["test_ood"]["ndcg@20"]
    assert f"{before:.4f}\u00a0→\u00a0{after:.4f}" in report.verdict
    best = max(measured[name]["test_ood"]["ndcg@20"] for name in STANDARD)
    assert f"{after / best:.2f} × the best reference" in report.verdict
    kept = 100 * after / before
    begins = f"Keeps {kept:.0f}" if kept < 100 else "Loses nothing of its NDCG@20"
    assert report.verdict.startswith(begins)


def test_differences_are_paired(report):
    reached = table(report, "What each method reaches")
    found = table(report, "cnsdiff (this run) less the other")
    for name in STANDARD:
        gap = (
            reached[("cnsdiff (this run)",)]["test_ood/ndcg@20"]
            - reached[(name,)]["test_ood/ndcg@20"]
        )
        assert found[(name,)]["test_ood/difference"] == pytest.approx(gap)
        assert 0 < found[(name,)]["test_ood/p"] <= 1


def test_slices_hold_all_pairs(report):
    for title in ("popularity of the item", "activity of the user", "time"):
        shares = table(report, f"Share of the pairs by {title}")
        assert len(shares) == 2
        for own in shares.values():
            assert sum(own.values()) == pytest.approx(1)
        accuracy = table(report, f"NDCG@20 by {title}")
        assert len(accuracy) == 2 * (1 + len(STANDARD))
    # Of users, the parts average to the whole: each user is in one of them.
    whole = table(report, "What each method reaches")[("mostpop",)]["test_iid/ndcg@20"]
    parts = table(report, "NDCG@20 by activity of the user")[("IID test", "mostpop")].values()
    assert min(parts) <= whole <= max(parts)


def test_the_dial_is_validations_choice(run, report):
    model = Recommender.load(run)
    frontier, along = (b for b in section(report, "Dial") if isinstance(b, Figure))
    own = frontier.data.filter(method="this run")
    assert model.dial_ in own["dial"].to_list()
    chosen = own.filter(dial=model.dial_)
    reached = table(report, "What each method reaches")[("cnsdiff (this run)",)]
    assert chosen["iid"].item() == pytest.approx(reached["test_iid/ndcg@20"], abs=1e-6)
    assert chosen["ood"].item() == pytest.approx(reached["test_ood/ndcg@20"], abs=1e-6)
    easy = frontier.data.filter(method="ease")
    ease = table(report, "What each method reaches")[("ease",)]
    assert easy["ood"].item() == pytest.approx(ease["test_ood/ndcg@20"])
    assert along.data.columns == [
        "dial", "test_iid/ndcg@20", "test_ood/ndcg@20", "valid/ndcg@20 (inverse-popularity)"
    ]  # fmt: skip
    said = words(report, "Dial")
    assert "chosen on validation alone, by **NDCG@20 (inverse-popularity)**" in said
    assert "chose nothing" in said


def test_negatives_of_the_sampler_as_trained(run, world, report):
    found = table(report, "The negatives in numbers")
    assert list(found) == [("random",), ("hardest of 32",), ("cnsdiff, as trained",)]
    assert found[("hardest of 32",)]["hard"] > 0.95 > 0.6 > found[("random",)]["hard"] > 0.4
    maps = [b for b in section(report, "Negatives") if b.__class__ is Figure and "Map" in b.title]
    assert len(maps) == 3
    sampled = Recommender.load(run).sampled_negatives(load_dataset(world), n=4000, seed=0)
    assert isinstance(sampled.negatives, Vectors)
    own = maps[2].data.filter(kind="cnsdiff, as trained")
    assert own["id"].null_count() == own.height == 300
    assert "synthesises vectors" in words(report, "Negatives")
    share = next(b for b in section(report, "Negatives") if getattr(b, "title", "") == "Hardness")
    for name in ("random", "hardest of 32", "cnsdiff, as trained"):
        assert share.data[name].sum() == pytest.approx(1)


def test_training_shows_what_the_history_holds(run, report):
    history = pl.read_parquet(run / "history.parquet")
    titles = [block.title for block in section(report, "Training") if isinstance(block, Figure)]
    assert titles[:3] == [
        "NDCG@20 (inverse-popularity) on validation",
        "NDCG@20 on validation",
        "Recall@20 on validation",
    ]
    for name in ("False negatives", "Loss", "BPR", "Reconstruction", "Hardness"):
        assert name in titles
    loss = next(b for b in section(report, "Training") if getattr(b, "title", "") == "Loss")
    assert loss.data["loss"].to_list() == history["train/loss"].to_list()


def test_what_to_run_next(run, report, world):
    said = words(report, "Next")
    assert f"cnsdiff recommend '{run}' --users" in said
    assert f"--config '{run}/config.yaml'" in said
    # It was selected for its shift already; the default sampler would be another.
    assert "The same, with epoch and dial" not in said
    assert f"--select-on inverse-popularity --out '{run}-default'" in said


@pytest.mark.parametrize("name", SHIFTS)
def test_what_to_run_next_expects_the_shift_as_an_audit_does(run, world, name):
    data = load_dataset(world)
    data.manifest = data.manifest.model_copy(update={"scenario": name})
    found = next_commands(run, Recommender.load(run), data, None)
    (default,) = (line for line in found.text.splitlines() if line.endswith("-default'"))
    shift = SHIFTS[name]
    expecting = Command("train", select_on=shift.anticipate, set=shift.training).words[2:]
    assert f" {' '.join(expecting)} --out " in default
    same = f"--select-on {SHIFTS[name].anticipate} "
    assert found.text.count(same) == (2 if "popularity" not in SHIFTS[name].anticipate else 1)


def test_where_it_came_from(run, report):
    facts, source = section(report, "Run")
    assert source.text == (run / "config.yaml").read_text()
    named = dict(facts.rows)
    assert named["users"] == "80"
    assert named["fingerprint of the dataset"] == Recommender.load(run).trained_on_["fingerprint"]


def test_the_same_page_again_telling_what_it_does(run, report):
    told: list[str] = []

    class Told(Reporting):
        def note(self, message: str) -> None:
            told.append(message)

    assert render_html(run_document(run, reporter=Told())) == render_html(report)
    assert [message.partition(" ")[0] for message in told] == [
        "ranking", "fitting", "fitting", "fitting", "comparing", "turning", "asking", "measuring"
    ]  # fmt: skip


# --- what is not there


@pytest.fixture
def orphan(run, world, tmp_path) -> Path:
    """The run, with its dataset gone from where it was."""
    path = tmp_path / "run"
    data = shutil.copytree(world, tmp_path / "data")
    Recommender("mf", "random", training={"epochs": 2}, threads=1).fit(load_dataset(data), run=path)
    shutil.rmtree(data)
    return path


def test_without_its_dataset(orphan, world):
    found = run_document(orphan)
    assert [one.title for one in found.sections] == ["Training", "Next", "Run"]
    assert "nothing is known of a test" in found.verdict
    assert f"no longer in {orphan.parent / 'data'}" in found.summary
    assert "--dataset DATASET" in words(found, "Next")
    pl.DataFrame(
        {
            "model": ["random", "ease"],
            "split": ["test_ood", "test_ood"],
            "metric": ["ndcg", "ndcg"],
            "k": [20, 20],
            "value": [0.125, 0.25],
            "n_users": [3, 3],
        }
    ).write_parquet(orphan / "metrics.parquet")
    known = table(run_document(orphan), "NDCG@20 when it was last evaluated")
    assert known == {("random",): {"test_ood": 0.125}, ("ease",): {"test_ood": 0.25}}
    (orphan / "metrics.parquet").write_bytes(b"PAR1 no more")
    assert "is damaged" in words(run_document(orphan), "Accuracy")
    whole = run_document(orphan, dataset=world)
    assert whole.sections[0].title == "Accuracy"
    assert "the popularity shift" in whole.verdict


def test_of_another_dataset(run, tmp_path):
    made = ConfoundedWorld(n_users=40, n_items=50, exposures=20, seed=1).dataset()
    other = made.save(tmp_path / "other")
    with pytest.raises(InputError, match=r"is not the dataset that .* was trained on"):
        run_document(run, dataset=other)


def log(seed: int, n: int) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pl.DataFrame({"user": rng.integers(0, 40, n), "item": rng.integers(0, 30, n)})
    return frame.unique(maintain_order=True)


def fitted(dataset: Dataset, path: Path, **options: object) -> Path:
    place = dataset.save(path.parent / f"{path.name}-data")
    training = {"epochs": 2, "fhn_every": None, "dial": "off"}
    Recommender("mf", "dns", training=training, threads=1, **options).fit(
        load_dataset(place), run=path
    )
    return path


def test_of_tests_and_times_that_are_not_there(tmp_path):
    whole = log(0, 500)
    train, valid, iid = whole[:-80], whole[-80:-40], whole[-40:]
    half = fitted(prepare_given(train, valid=valid, test_iid=iid, name="half"), tmp_path / "half")
    found = run_document(half)
    assert "on the IID test" in found.verdict and "shift" not in found.verdict
    assert "no OOD test" in found.summary
    assert "no timestamps" in words(found, "Slices")
    assert list(table(found, "What each method reaches")[("ease",)]) == [
        "test_iid/ndcg@20", "test_iid/recall@20"
    ]  # fmt: skip
    assert "It was switched off when training" in words(found, "Dial")
    titles = [block.title for block in section(found, "Training") if isinstance(block, Figure)]
    assert "False negatives" not in titles
    bare = fitted(prepare_given(train, valid=valid, name="bare"), tmp_path / "bare")
    found = run_document(bare)
    assert "nothing is known of a test" in found.verdict
    assert "no test split" in found.summary
    assert [one.title for one in found.sections] == [
        "Negatives",
        "Shift",
        "Training",
        "Next",
        "Run",
    ]
    render_html(found)


def test_a_sampler_that_is_not_at_hand(tmp_path):
    from cnsdiff.samplers.static import RandomSampler

    class Own(RandomSampler):
        pass

    whole = log(1, 400)
    data = prepare_given(whole[:-60], valid=whole[-60:-30], test_ood=whole[-30:], name="own")
    place = data.save(tmp_path / "data")
    Recommender("mf", Own, training={"epochs": 1}, threads=1).fit(
        load_dataset(place), run=tmp_path / "run"
    )
    found = run_document(tmp_path / "run")
    assert words(found, "Negatives").startswith("Left out: ")
    assert "on the OOD test" in found.verdict


def test_of_an_unfinished_run(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "weights.safetensors").unlink()
    with pytest.raises(RunError, match="is missing"):
        run_document(copy)


def test_references_that_take_minutes_or_fail_are_left_out(run, monkeypatch):
    def out_of_memory(self, train):
        raise MemoryError

    monkeypatch.setattr("cnsdiff.report.run.EASE_ITEMS", 10)
    monkeypatch.setattr("cnsdiff.references.ItemKNN._fit", out_of_memory)
    found = run_document(run)
    assert {("ease",), ("itemknn",)}.isdisjoint(table(found, "What each method reaches"))
    assert "itemknn is left out: there is not enough memory for it." in found.summary
    assert "EASE is left out: its time grows with the cube" in found.summary
    assert "× the best of the references measured here (" in found.verdict
    assert "× the best reference" not in found.verdict + found.summary
    assert f"cnsdiff evaluate '{run}' --references" in found.summary


# --- the picture


def test_principal_plane():
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(200, 2, generator=generator) @ torch.randn(2, 9, generator=generator)
    points, explained = principal_plane(flat + 5)
    assert explained == pytest.approx(1)
    # Distances on the plane are those in space, and the axes are uncorrelated, the first wider.
    apart = torch.cdist(flat.double(), flat.double())
    assert torch.allclose(torch.cdist(points, points), apart, atol=1e-4)
    spread = torch.cov(points.T)
    assert abs(spread[0, 1]) < 1e-6 * spread[0, 0] and spread[0, 0] >= spread[1, 1]
    assert torch.equal(principal_plane(flat + 5)[0], points)
    _, some = principal_plane(torch.randn(500, 20, generator=generator))
    assert 0.1 < some < 0.3
    alone, whole = principal_plane(torch.ones(4, 1))
    assert alone.shape == (4, 2) and whole == 1


@pytest.mark.slow
def test_in_a_browser(report, tmp_path, open_page):
    file = tmp_path / "report.html"
    write_html(report, file)
    with open_page(file) as page:
        for one in report.sections:
            page.click(f"#tab-{one.title.lower().replace(' ', '-')}")
        undrawn = "all => all.filter(one => !one.querySelector('svg')).length"
        assert page.eval_on_selector_all(".plot", undrawn) == 0
        assert page.locator(".verdict").inner_text() == report.verdict
        page.set_viewport_size({"width": 360, "height": 740})
        for one in report.sections:
            page.click(f"#tab-{one.title.lower().replace(' ', '-')}")
            assert page.evaluate("document.documentElement.scrollWidth") == 360, one.title


@pytest.fixture(scope="module")
def arrivals(tmp_path_factory) -> Path:
    """A dataset whose OOD test has new items."""
    simulated = ConfoundedWorld(n_users=120, n_items=100, exposures=50, seed=0)
    items = simulated.dataset().table("item_features").with_columns(item=simulated.dataset().items)
    log = simulated.clicks(simulated.periods).select("user", "item", "timestamp")
    log = log.filter(pl.col("item").is_in(items["item"].implode()))
    made = prepare(log, "new-items", item_features=items, seed=2)
    return made.save(tmp_path_factory.mktemp("data") / "arrivals")


def test_new_items_are_told_apart_and_together(arrivals):
    data = load_dataset(arrivals)
    brief = {"epochs": 2, "batch_size": 128, "select_on": "valid"}
    model = Recommender(training=brief, content={"prior": "ridge"}, threads=1).fit(data)
    found = model.evaluate_new_items(data)
    prose, placed, chosen, told = new_item_blocks(model, data, "ndcg@20")
    share = f"**{percent(found.share_taken)}** of the OOD test's pairs"
    assert share in prose.text
    assert f"**{percent(found.share_listed[20])}** of the places" in prose.text
    values = {labels[0]: cells[0].value for labels, cells in placed.rows}
    assert values == {
        "old items, in lists of old items": found.warm["ndcg@20"],
        "new items, in lists of new items": found.new["ndcg@20"],
        "all items in one list": found.joint["ndcg@20"],
        "harmonic mean of old and new": found.harmonic["ndcg@20"],
    }
    assert "ridge regression" in chosen.text
    metrics = model.content_.metrics
    assert [cells[0].value for _, cells in told.rows] == [
        metrics[name] for name in ("with", "without", "warm", "new", "profile")
    ]
    # Content that was not used places nothing, and what was tried is told all the same.
    unused = model.content_.model_copy(update={"used": False})
    bare = replace(model.model_, content=None, content_choice=unused)
    model._keep(replace(model._fitted(), model=bare))
    none, left_out, _ = new_item_blocks(model, data, "ndcg@20")
    assert "in no list, as content is not used" in none.text
    assert left_out.text.startswith("Content was left out")


def test_a_run_without_content_says_what_is_in_no_list(arrivals, tmp_path):
    data = load_dataset(arrivals)
    Recommender("mostpop").fit(data, run=tmp_path / "run")
    (prose,) = section(run_document(tmp_path / "run"), "New items")
    pairs = (data.table("new_item_pairs")["split"] == "test_ood").sum()
    assert prose.text.startswith(f"{pairs:,} more pairs of the OOD test are on {data.n_new_items}")
    assert "in no list" in prose.text
    model = Recommender.load(tmp_path / "run")
    assert new_item_blocks(model, data.with_new_items(), "ndcg@20") == []
