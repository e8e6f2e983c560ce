"""Small inputs on which a version before went wrong, each with its right outcome."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest

import cnsdiff
from cnsdiff import Recommender, load_dataset
from cnsdiff.base.errors import CnsdiffError, CnsdiffWarning

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def cases(shared_data: Path) -> Path:
    folder = shared_data.parent / "cases"
    if not folder.is_dir():
        pytest.skip(f"needs the folder of cases (looked in {folder})")
    return folder


def test_every_case_is_tried_here(cases):
    source = Path(__file__).read_text(encoding="utf-8")
    named = [entry.name for entry in cases.iterdir() if entry.is_dir()]
    assert not [name for name in named if f'"{name}"' not in source]


def read(file: Path, **options) -> pl.DataFrame:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CnsdiffWarning)
        return cnsdiff.read_interactions(file, **options).frame


def users_and_items(frame: pl.DataFrame) -> tuple[list[object], list[object]]:
    return frame["user"].unique().sort().to_list(), frame["item"].unique().sort().to_list()


NUMBERS = (list(range(1, 21)), list(range(1, 16)))


def test_delimiters(cases):
    for file in sorted((cases / "04-european-csv").iterdir()):
        for skip_bad in (False, True):
            try:
                frame = read(file, skip_bad=skip_bad)
            except CnsdiffError as error:
                assert "decimal comma" in str(error), file
                continue
            assert users_and_items(frame) == NUMBERS, file
            if "rating" in frame.columns:
                assert set((frame["rating"] * 2 % 1).to_list()) == {0.0}, file


def test_blanks_after_the_comma(cases):
    for file in sorted((cases / "05-space-after-comma").iterdir()):
        assert users_and_items(read(file)) == NUMBERS, file


def test_missing_ids(cases):
    for name, token in (("hive_null.csv", r"\N"), ("nan_user.csv", "nan")):
        file = cases / "06-missing-ids" / name
        with pytest.raises(CnsdiffError) as refusal:
            read(file)
        assert token in str(refusal.value)
        assert "162" in str(refusal.value)
        assert users_and_items(read(file, skip_bad=True)) == NUMBERS


def test_headers(cases):
    folder = cases / "07-header-as-row"
    users, items = users_and_items(read(folder / "session_sku.csv"))
    assert len(users), len(items) == (20, 15)
    assert {user[0] for user in users} == {"s"}
    for name in ("header_twice.csv", "two_boms.csv"):
        with pytest.raises(CnsdiffError, match="line 162"):
            read(folder / name)
        assert users_and_items(read(folder / name, skip_bad=True))[1] == NUMBERS[1]


def a_log(seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    pairs = [(u, int(i)) for u in range(60) for i in rng.choice(40, 12, replace=False)]
    return pl.DataFrame(pairs, schema=["user", "item"], orient="row")


@pytest.fixture(scope="module")
def model() -> Recommender:
    """What the scripts of the cases train."""
    dataset = cnsdiff.prepare(a_log(), "popularity", seed=0)
    return Recommender(seed=0, training={"epochs": 1}).fit(dataset)


def test_more_than_the_catalogue(model, cases):
    assert (cases / "08-k-larger-than-catalogue").is_dir()
    assert len(model.recommend(model.users_[:1], k=10**9)) == 28
    assert len(model.similar(model.items_[:1], k=10**9)) == 39


def test_a_crawler(cli, cases, tmp_path):
    assert (cases / "09-itemknn-heavy-user").is_dir()
    rng, n = np.random.default_rng(0), 3000
    users, crawled = np.repeat(np.arange(300), 12), np.arange(n - 10)
    log = pl.DataFrame(
        {
            "user": np.r_[users, np.full(len(crawled), 999999)],
            "item": np.r_[rng.integers(0, n, len(users)), crawled],
        }
    )
    dataset = cnsdiff.prepare(log.unique(maintain_order=True), "popularity", seed=0)
    dataset.save(tmp_path / "d")
    assert {"mostpop", "itemknn"} <= cli("evaluate", tmp_path / "d", "--json").json["models"].keys()


def test_a_user_of_all_items(cli, cases, tmp_path):
    folder = cases / "10-all-items-user"
    given = ("--train", folder / "train.csv", "--valid", folder / "valid.csv")
    assert cli("prepare", *given, "--out", tmp_path / "d").code == 0
    for sampler in ("exposure", "random", "dns"):
        fast = ("--sampler", sampler, "--set", "training.epochs=1", "--threads", 1)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            done = cli("train", tmp_path / "d", "--out", tmp_path / sampler, *fast)
        assert done.code == 0, done.err
        # Negatives shared by a batch need none of the user's own.
        named = any("1 user has all 15 items" in str(warning.message) for warning in told)
        assert named == (sampler != "exposure")


def test_a_forked_worker(cases):
    """Held by tests/test_eligibility.py, with more threads than the script has."""
    assert (cases / "11-forked-worker").is_dir()


def test_files_of_users(cli, run, cases):
    folder = cases / "13-users-file"
    for name in ("bom.txt", "header.csv", "floats.txt"):
        for cold in ("popular", "error"):
            done = cli("recommend", run, "--users-from", folder / name, "--cold", cold, "--json")
            assert [row["user"] for row in done.json][::20] == [1, 2], (name, cold)


def test_sentences_for_raw_errors(model, cases):
    assert (cases / "14-raw-errors").is_dir()
    frame = a_log().to_pandas()
    for ask in (
        lambda: cnsdiff.read_interactions(pd.concat([frame, frame[["user"]]], axis=1)),
        lambda: cnsdiff.prepare(
            a_log().with_columns(rating=pl.lit(4.0)), "popularity", threshold="4"
        ),
        lambda: model.recommend([1], k=2.0),
        lambda: model.recommend([1], k="5"),
        lambda: model.recommend([1], k=None),
    ):
        with pytest.raises(CnsdiffError):
            ask()


def test_floats_that_lost_digits(cases):
    assert (cases / "15-float-ids-above-2p53").is_dir()
    ids = 2**53 + np.arange(20)
    with pytest.raises(CnsdiffError, match="digits"):
        cnsdiff.read_interactions(pd.DataFrame({"user": ids.astype(float), "item": 1}))


def test_features_of_nobody(cli, cases, tmp_path):
    folder = cases / "16-features-no-match"
    features = ("--user-features", folder / "users.csv")
    ask = ("prepare", folder / "log.csv", "--scenario", "popularity", "--out", tmp_path / "d")
    # 1.0 is 1 here; that no id is met at all is told.
    with pytest.warns(CnsdiffWarning, match=r"'1\.0' are taken for the whole number"):
        assert cli(*ask, *features).code == 0
    assert load_dataset(tmp_path / "d").table("user_features")["group"].null_count() == 0
    strangers = tmp_path / "strangers.csv"
    strangers.write_text("user_id,group\nu1,a\nu2,b\n")
    cli(*ask, "--overwrite", "--user-features", strangers).refused("strangers.csv", "'u1'")


def test_a_run_that_cannot_be_written(cli, run, cases, monkeypatch):
    assert (cases / "17-read-only-run").is_dir()
    touch = Path.touch

    def refuse(path, *arguments, **options):
        if run in path.parents:
            raise PermissionError(13, "Permission denied", str(path))
        return touch(path, *arguments, **options)

    monkeypatch.setattr(Path, "touch", refuse)
    done = cli("evaluate", run)
    assert done.code == 0
    assert "OOD test" in done.out
    assert "metrics.parquet" in done.err + done.out


def test_quoted_lines(cases):
    file = cases / "18-quoted-newline" / "reviews.csv"
    for skip_bad in (False, True):
        rows = read(file, skip_bad=skip_bad).select("user", "item", "rating").rows()
        assert rows == [(1, 10, 4.0), (2, 11, 5.0)]


def test_a_frame_of_users(model, cases):
    assert (cases / "21-frame-of-users").is_dir()
    users = pd.DataFrame({"user": [1, 2]})
    lists = model.recommend(users, k=2, cold="popular")
    assert lists["user"].tolist() == [1, 1, 2, 2]
    assert lists["item"].tolist() == model.recommend([1, 2], k=2)["item"].to_list()


def test_labels_in_ready_splits(cli, cases, tmp_path):
    folder = cases / "22-labels-in-ready-splits"
    given = ("--train", folder / "train.csv", "--test-ood", folder / "test_ood.csv")
    done = cli("prepare", *given, "--out", tmp_path / "d")
    assert done.code == 0
    assert "without --threshold each of them counts as positive" in " ".join(
        (done.out + done.err).split()
    )


@pytest.mark.parametrize("name", ["ms", "days", "iso_minutes_z", "bigquery_utc"])
def test_times(cases, name):
    frame = read(cases / "23-time-units" / f"{name}.csv")
    assert frame["timestamp"].min() > 1.4e9  # 2017 and 2020, in seconds
    assert frame["timestamp"].max() < 1.7e9


def test_the_order_of_rows(cases):
    """Ties go to the item first met, and docs say by how much that moves ItemKNN."""
    assert (cases / "24-row-order-of-ties").is_dir()
    docs = Path(__file__).resolve().parents[2] / "docs"
    page = (docs / "metrics.md").read_text(encoding="utf-8")
    assert "shuffle the rows" in " ".join(page.split())


def test_damaged_runs(cli, cases, tmp_path):
    for folder in sorted((cases / "40-damaged-runs").iterdir()):
        run = shutil.copytree(folder, tmp_path / folder.name)
        for command in (("recommend", run, "--all-users"), ("evaluate", run), ("report", run)):
            cli(*command).refused(folder.name)


def test_damaged_embeddings(cli, cases, tmp_path):
    a_log().write_csv(tmp_path / "log.csv")
    ask = ("audit", tmp_path / "log.csv", "--budget", "5s", "--out", tmp_path / "audit")
    for file in sorted((cases / "41-damaged-embeddings").iterdir()):
        cli(*ask, "--shifts", "popularity", "--embeddings", f"popularity={file}").refused(file.name)


def test_hostile_ids_and_times(cli, cases, tmp_path):
    folder = cases / "42-hostile-ids"
    d, run = tmp_path / "d", tmp_path / "run"
    log = ("prepare", folder / "hostile.csv", "--scenario", "temporal", "--literal-ids")
    assert cli(*log, "--out", d).code == 0
    fast = ("--sampler", "random", "--set", "training.epochs=1", "--threads", 1)
    assert cli("train", d, "--out", run, *fast).code == 0
    lists = cli("recommend", run, "--all-users", "--seen", "train", "--k", 100)
    assert lists.code == 0
    for raw in ("\x1b", "\x07", "\u2028", "\u202e"):
        assert raw not in lists.out
    for shown in ("[bold]", "[red]bold[/red]", "<!--"):
        assert shown in lists.out
    assert cli("report", run).code == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "<script>window.PWNED" not in page

    huge = tmp_path / "huge"
    done = cli("prepare", folder / "times_huge.csv", "--scenario", "popularity", "--out", huge)
    if done.code == 0:
        assert cli("data", "describe", huge).code == 0
    else:
        done.refused("times_huge.csv")
    cli("train", d, "--out", tmp_path / "r", "--config", folder / "deep.yaml").refused("deep.yaml")
    cli("benchmark", folder / "deep.yaml").refused("deep.yaml")


def test_damaged_reports(cli, cases, tmp_path):
    for folder in sorted((cases / "43-damaged-reports").iterdir()):
        copy = shutil.copytree(folder, tmp_path / folder.name)
        name = next(folder.iterdir()).name
        json.loads((copy / name).read_text(encoding="utf-8"))  # well-formed, but edited
        cli("report", copy).refused(name)
