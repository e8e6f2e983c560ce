"""Each file of a dataset is opened once, and a test split not before it is asked for."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from cnsdiff import load_dataset

#: The files that are opened, while a test looks; a hook cannot be taken away again.
_OPENED: list[Path] = []
_watch = False


def _note(event: str, arguments: tuple[object, ...]) -> None:
    # Without a mode, a file is opened to be locked or synchronised, not to be read or written.
    if _watch and event == "open" and arguments[1] and isinstance(arguments[0], str | Path):
        _OPENED.append(Path(arguments[0]))


sys.addaudithook(_note)


@pytest.fixture
def opened() -> Callable[..., Counter[str]]:
    """What a call opens, by file name, of the files of some endings."""

    def of(call: Callable[[], object], *endings: str) -> Counter[str]:
        global _watch
        _OPENED.clear()
        _watch = True
        try:
            call()
        finally:
            _watch = False
        return Counter(path.name for path in _OPENED if path.suffix in endings)

    return of


@pytest.fixture
def shop(tmp_path):
    log = tmp_path / "shop.csv"
    rows = (f"u{n % 20},i{n * 7 % 30},{1_600_000_000 + n * 1000}" for n in range(400))
    log.write_text("user,item,timestamp\n" + "\n".join(rows) + "\n")
    return log


@pytest.fixture
def prepared(cli, shop, tmp_path):
    cli("prepare", shop, "--scenario", "temporal", "--out", tmp_path / "data")
    return tmp_path / "data"


WRITTEN = ("users", "items", "train", "valid", "test_iid", "test_ood", "seen")


def test_prepare(cli, shop, tmp_path, opened):
    def prepare():
        cli("prepare", shop, "--scenario", "temporal", "--out", tmp_path / "data")

    files = opened(prepare, ".csv", ".parquet")
    # The log once for what it is, and once for what it holds.
    assert files.pop("shop.csv") == 2
    assert files == {f"{name}.parquet": 1 for name in WRITTEN}


def test_load_and_use(prepared, opened):
    dataset = load_dataset(prepared)

    def use():
        for _ in range(3):
            for name in ("train", "valid"):
                dataset.split(name)

    assert opened(use, ".parquet") == {"train.parquet": 1, "valid.parquet": 1}
    assert dataset.split("train") is dataset.split("train")
    assert opened(dataset.seen, ".parquet") == {"seen.parquet": 1}
    assert opened(dataset.seen, ".parquet") == {}


def test_loading_opens_the_ids_alone(prepared, opened):
    files = opened(lambda: load_dataset(prepared), ".parquet", ".json")
    assert files == {"manifest.json": 1, "users.parquet": 1, "items.parquet": 1}


def test_side_tables(cli, tmp_path, opened):
    size = ("--users", 60, "--items", 50, "--exposures", 20)
    cli("simulate", *size, "--out", tmp_path / "world")
    dataset = load_dataset(tmp_path / "world")

    def use():
        for _ in range(2):
            for name in dataset.table_names:
                dataset.table(name)

    assert opened(use, ".parquet") == {f"{name}.parquet": 1 for name in dataset.table_names}


def test_describe(cli, prepared, opened):
    files = opened(lambda: cli("data", "describe", prepared), ".parquet", ".json")
    names = ("users", "items", "train", "valid", "test_iid", "test_ood")
    assert files == {"manifest.json": 1, **{f"{name}.parquet": 1 for name in names}}


def test_report_of_a_run(cli, tmp_path, opened):
    size = ("--users", 60, "--items", 50, "--exposures", 20)
    cli("simulate", *size, "--out", tmp_path / "world")
    model = ("--set", "backbone.dim=4", "--set", "training.epochs=2")
    cli("train", tmp_path / "world", *model, "--out", tmp_path / "run")
    files = opened(lambda: cli("report", tmp_path / "run"), ".parquet")
    # Of the dataset each once, and of the run each once.
    assert {name: files[f"{name}.parquet"] for name in ("valid", "test_iid", "test_ood")} == {
        "valid": 1, "test_iid": 1, "test_ood": 1
    }  # fmt: skip
    assert {name: files[f"{name}.parquet"] for name in ("users", "items", "train")} == {
        "users": 2, "items": 2, "train": 2
    }  # fmt: skip
    assert files["history.parquet"] == 1
    assert files["seen.parquet"] == 1
