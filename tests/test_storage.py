"""Either the old content or the new, never a mixture."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path

import polars as pl
import pytest

from cnsdiff import storage
from cnsdiff.errors import InputError, StorageError


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_files_are_written_and_replaced(tmp_path):
    path = tmp_path / "new" / "a.json"
    storage.write_json(path, {"b": "é", "a": 1})
    assert json.loads(path.read_text(encoding="utf-8")) == {"b": "é", "a": 1}
    storage.write_text(path, "x")
    assert path.read_text() == "x"
    assert names(path.parent) == ["a.json"]
    expected = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    assert storage.sha256(path) == expected


def test_what_is_written_obeys_the_umask(tmp_path):
    before = os.umask(0o022)
    try:
        storage.write_text(tmp_path / "file", "x")
        with storage.atomic_directory(tmp_path / "dir") as folder:
            storage.write_text(folder / "file", "x")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("file", "dir", "dir/file")]
    assert modes == [0o644, 0o755, 0o644]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, InputError])
def test_a_failure_midway_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(error), storage.atomic_file(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, InputError])
def test_a_failure_midway_leaves_the_old_directory_and_nothing_else(tmp_path, error):
    path = tmp_path / "d"
    path.mkdir()
    (path / "a").write_text("old")
    with pytest.raises(error), storage.atomic_directory(path, overwrite=True) as temporary:
        (temporary / "a").write_text("half")
        raise error
    assert (path / "a").read_text() == "old"
    assert names(tmp_path) == ["d"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failure_between_the_two_renames_brings_the_old_back(tmp_path, monkeypatch, error):
    path = tmp_path / "d"
    path.mkdir()
    (path / "a").write_text("old")
    real = type(path).replace

    def replace(self, target):
        if target == path and (self / "b").exists():
            raise error
        return real(self, target)

    monkeypatch.setattr(type(path), "replace", replace)
    expected = StorageError if error is OSError else error
    with pytest.raises(expected), storage.atomic_directory(path, overwrite=True) as temporary:
        (temporary / "b").write_text("new")
    monkeypatch.undo()
    assert (path / "a").read_text() == "old"
    assert names(tmp_path) == ["d"]


def test_directories_are_replaced_only_when_asked(tmp_path):
    path = tmp_path / "deep" / "d"
    for content in ("one", "two"):
        with storage.atomic_directory(path, overwrite=True) as temporary:
            (temporary / content).write_text(content)
    assert names(path) == ["two"]
    assert names(path.parent) == ["d"]
    with pytest.raises(InputError, match="--overwrite"), storage.atomic_directory(path):
        pass
    (tmp_path / "empty").mkdir()
    with storage.atomic_directory(tmp_path / "empty") as temporary:
        (temporary / "x").touch()
    assert names(tmp_path / "empty") == ["x"]


def test_system_errors_become_one_sentence(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="cannot be written"):
        storage.write_text(tmp_path / "file" / "below", "x")
    with (
        pytest.raises(StorageError, match="cannot be written"),
        storage.atomic_directory(tmp_path / "file" / "below"),
    ):
        pass
    for code in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        full = storage.storage_error(tmp_path, OSError(code, os.strerror(code)))
        wrapped = storage.storage_error(tmp_path, RuntimeError(f"io: {os.strerror(code)}"))
        assert "disk is full" in str(full)
        assert str(full) == str(wrapped)


def test_a_full_disk_leaves_the_old_file(tmp_path, full_disk):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with full_disk(1000), pytest.raises(StorageError, match="the disk is full"):
        storage.write_text(path, "x" * 5000)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("name", ["x[1]", "x*?{a}", "x?", "~", "year=2020", "s3:", "é\n"])
def test_paths_are_names_not_patterns(tmp_path, monkeypatch, name):
    """Relative ones, too: a folder called ``~`` is not the home."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for folder in ("x1", "xy", "home", name):
        (tmp_path / folder).mkdir()
        for file, write in (
            ("a.parquet", pl.DataFrame.write_parquet),
            ("a.csv", pl.DataFrame.write_csv),
            ("a.jsonl", pl.DataFrame.write_ndjson),
        ):
            table = pl.DataFrame({"own": [folder], "b": [1]})
            storage.write_with(Path(folder) / file, lambda path, w=write, t=table: w(t, path))
    expected = [{"own": name}]
    place = Path(name)
    assert storage.read_parquet(place / "a.parquet", ["own"]).to_dicts() == expected
    assert storage.read_parquet(place / "a.parquet").width == 2
    assert list(storage.read_parquet_schema(place / "a.parquet")) == ["own", "b"]
    assert storage.read_csv(place / "a.csv", ["own"]).to_dicts() == expected
    assert storage.read_json_lines(place / "a.jsonl", {"own": pl.String}).to_dicts() == expected
    assert names(tmp_path) == sorted({"x1", "xy", "home", name})
