"""Either the old content or the new, never a mixture."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save

from cnsdiff.base import storage
from cnsdiff.base.errors import InputError, RunError, StorageError
from cnsdiff.base.text import visible


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
        storage.write_tensors(tmp_path / "tensors", {"x": torch.zeros(2)})
    finally:
        os.umask(before)
    written = ("file", "dir", "dir/file", "tensors")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in written]
    assert modes == [0o644, 0o755, 0o644, 0o644]


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


@pytest.fixture(params=["exchanged", "renamed"])
def exchange(request, monkeypatch):
    """Whether the system exchanges two directories in one step."""
    if request.param == "renamed":
        monkeypatch.setattr(storage, "_renameat2", lambda: None)
    elif storage._renameat2() is None:
        pytest.skip("this system has no renameat2")
    return request.param == "exchanged"


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failure_between_the_two_renames_brings_the_old_back(tmp_path, monkeypatch, error):
    path = tmp_path / "d"
    path.mkdir()
    (path / "a").write_text("old")
    real = type(path).rename

    def rename(self, target):
        if target == path and (self / "b").exists():
            raise error
        return real(self, target)

    monkeypatch.setattr(type(path), "rename", rename)
    monkeypatch.setattr(storage, "_renameat2", lambda: None)
    expected = StorageError if error is OSError else error
    with pytest.raises(expected), storage.atomic_directory(path, overwrite=True) as temporary:
        (temporary / "b").write_text("new")
    monkeypatch.undo()
    assert (path / "a").read_text() == "old"
    assert names(tmp_path) == ["d"]


#: What changes files, as Python tells of it; ``open`` only where it is to write.
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir"}


def killed(action, after: int) -> bool:
    """Carry ``action`` out in a process that dies before a change; whether it came so far."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] != 0
    left = after

    def change():
        nonlocal left
        if left == 0:
            os._exit(9)
        left -= 1

    def listen(event, arguments):
        if event in CHANGES or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            change()

    exchange = storage._exchange
    storage._exchange = lambda *names: (change(), exchange(*names))[1]
    sys.addaudithook(listen)
    action()
    os._exit(0)


def test_a_kill_leaves_the_old_or_the_new_and_nothing_for_long(tmp_path, exchange, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # the machine does not go down
    folder, file = tmp_path / "d", tmp_path / "f"

    def write(content):
        with storage.atomic_directory(folder, overwrite=True) as temporary:
            storage.write_text(temporary / "a", content)
            (temporary / "sub").mkdir()
        storage.write_text(file, content)

    write("old")
    after = 0
    while killed(lambda: write("new"), after):
        after += 1
        if exchange:
            assert folder.is_dir()  # at every moment, and before anybody mends anything
        storage.recover(folder)
        contents = [(folder / "a").read_text(), file.read_text()]
        assert contents in (["old", "old"], ["new", "old"], ["new", "new"])
        assert names(folder) == ["a", "sub"]
        write("old")
        assert names(tmp_path) == ["d", "f"]
    assert after > 10


def test_what_is_written_is_on_disk_before_it_has_its_name(tmp_path, exchange, monkeypatch):
    events = []

    def recording(event, call):
        return lambda *arguments: (events.append(event(*arguments)), call(*arguments))[1]

    monkeypatch.setattr(os, "fsync", recording(lambda handle: os.fstat(handle).st_ino, os.fsync))
    for owner, name in ((os, "rename"), (os, "replace"), (storage, "_exchange")):
        monkeypatch.setattr(owner, name, recording(lambda *_: "named", getattr(owner, name)))

    def write_directory():
        with storage.atomic_directory(tmp_path / "d", overwrite=True) as temporary:
            (temporary / "sub").mkdir()
            (temporary / "sub" / "a").write_text("x")

    def write_file():
        storage.write_text(tmp_path / "f", "x")

    for write, written in (
        (write_directory, ("d", "d/sub", "d/sub/a")),
        (write_directory, ("d", "d/sub", "d/sub/a")),  # what is replaced takes another way
        (write_file, ("f",)),
    ):
        events.clear()
        write()
        first = events.index("named")
        assert set(events[:first]) == {(tmp_path / name).stat().st_ino for name in written}
        assert events[-1] == tmp_path.stat().st_ino  # and the name itself


def test_what_a_live_process_writes_is_no_leftover(tmp_path):
    for name, write in (("f", storage.atomic_file), ("d", storage.atomic_directory)):
        with write(tmp_path / name) as temporary:
            storage.remove_leftovers(tmp_path, ["d", "f"])
            assert temporary.exists()
    (tmp_path / f".f.{'0' * 16}").touch()
    storage.remove_leftovers(tmp_path, ["d", "f"])
    assert names(tmp_path) == ["d", "f"]


def test_a_reader_waits_for_a_writer_between_two_renames(tmp_path):
    path, aside = tmp_path / "d", tmp_path / f".d.{'0' * 16}.old"
    aside.mkdir()
    held = storage._hold(aside)  # as the writer does
    threading.Timer(0.05, lambda: (path.mkdir(), os.close(held))).start()
    storage.recover(path)
    assert path.exists()
    assert aside.exists()  # the writer's to remove


def test_a_directory_is_held_by_one_process_until_its_end(tmp_path):
    busy = RunError("busy")
    ready, done = os.pipe()
    child = os.fork()
    if not child:
        with storage.locked(tmp_path, busy):
            os.write(done, b"x")
            signal.pause()
    os.read(ready, 1)
    try:
        with pytest.raises(RunError, match="busy"), storage.locked(tmp_path, busy):
            pass
        (tmp_path / "x").touch()  # held, not closed to anybody
        with (
            pytest.raises(RunError, match="another command is writing here"),
            storage.atomic_directory(tmp_path, overwrite=True),
        ):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    with storage.locked(tmp_path, busy):
        pass
    assert names(tmp_path) == ["x"]


def test_where_directories_cannot_be_held_a_file_is(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "_hold", lambda path: None)
    with storage.locked(tmp_path, RunError("busy")):  # noqa: SIM117
        with pytest.raises(RunError, match="busy"), storage.locked(tmp_path, RunError("busy")):
            pass
    with storage.locked(tmp_path, RunError("busy")):
        pass


def test_what_a_link_points_to_is_replaced_and_not_the_link(tmp_path):
    (tmp_path / "large").mkdir()
    for name, write in (("f", "file"), ("d", "folder")):
        link = tmp_path / name
        link.symlink_to(tmp_path / "large" / name)
        for content in ("old", "new"):
            if write == "file":
                storage.write_text(link, content)
            else:
                with storage.atomic_directory(link, overwrite=True) as temporary:
                    (temporary / content).touch()
        assert link.is_symlink()
    assert (tmp_path / "large" / "f").read_text() == "new"
    assert names(tmp_path / "large" / "d") == ["new"]
    assert names(tmp_path / "large") == ["d", "f"]


def test_directories_are_replaced_only_when_asked(tmp_path):
    path = tmp_path / "deep" / "d"
    for content in ("one", "two"):
        with storage.atomic_directory(path, overwrite=True) as temporary:
            (temporary / content).write_text(content)
    assert names(path) == ["two"]
    assert names(path.parent) == ["d"]
    with pytest.raises(InputError, match="overwrite=True"), storage.atomic_directory(path):
        pass
    (tmp_path / "empty").mkdir()
    with storage.atomic_directory(tmp_path / "empty") as temporary:
        (temporary / "x").touch()
    assert names(tmp_path / "empty") == ["x"]


def test_who_comes_second_does_not_replace_the_first(tmp_path):
    path = tmp_path / "d"
    with pytest.raises(InputError, match="already exists"), storage.atomic_directory(path) as mine:
        (mine / "second").touch()
        with storage.atomic_directory(path) as theirs:
            (theirs / "first").touch()
    assert names(path) == ["first"]
    assert names(tmp_path) == ["d"]


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
        assert full.exit_code == 1
    denied = storage.storage_error(tmp_path, OSError(errno.EACCES, os.strerror(errno.EACCES)))
    assert denied.exit_code == 2


def test_a_full_disk_leaves_the_old_file(tmp_path, full_disk):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with full_disk(1000), pytest.raises(StorageError, match="the disk is full"):
        storage.write_text(path, "x" * 5000)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_of_an_array_no_byte_is_lost(tmp_path, full_disk):
    """NumPy's own writer says nothing of the last few kilobytes."""
    array = np.arange(3000.0).reshape(1000, 3)
    for given in (array, array.T, np.array(["é", "b"]), array[:0]):
        storage.write_array(tmp_path / "a.npy", given)
        np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), given)
        size = (tmp_path / "a.npy").stat().st_size
        for room in (size - 1, size - 500, size // 2, 1):
            with full_disk(room), pytest.raises(OSError, match="large"):
                storage.write_array(tmp_path / "a.npy", given)


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


@pytest.mark.parametrize("metadata", [None, {"state": '{"é": "\\n"}'}])
def test_tensors_are_written_byte_by_byte_as_the_package_writes_them(tmp_path, metadata):
    table = torch.randn(4, 3)
    tensors = {
        "table": table,
        "é": torch.arange(3),
        "number": torch.tensor(1.5),
        "none": torch.zeros(0, 4),
        "columns": torch.randn(2, 3, dtype=torch.float64).T.contiguous(),
    }
    kinds = (torch.bfloat16, torch.float16, torch.int8, torch.uint8, torch.bool, torch.int16)
    tensors |= {str(kind): torch.tensor([1, 0, 1], dtype=kind) for kind in (*kinds, torch.int32)}
    storage.write_tensors(tmp_path / "x", tensors, metadata)
    assert (tmp_path / "x").read_bytes() == save(tensors, metadata)
    storage.write_tensors(tmp_path / "x", {"a": table, "b": table, "c": table.T})  # one memory
    assert torch.equal(load_file(tmp_path / "x")["c"], table.T)


def test_commands_killed_at_any_point():
    """A few points of a few commands; benchmarks/reliability/kills.py by itself tries them all."""
    script = Path(__file__).parents[1] / "benchmarks" / "reliability" / "kills.py"
    commands = ("prepare --overwrite", "data fetch --force")
    done = subprocess.run(
        [sys.executable, script, "--points", "3", "--seed", "1", "--only", *commands],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "\n6 of 6 survived, 0 left something; " in done.stdout, done.stderr
    assert done.returncode == 0


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "/x", "a\0b", "a\nb", "a\x1b[2J", "x" * 201, "é" * 101]
)
def test_names_that_would_lead_elsewhere(name):
    with pytest.raises(InputError, match="folder; name it with --out") as refused:
        storage.as_file_name(name, "name it with --out")
    assert visible(str(refused.value)) == str(refused.value)


@pytest.mark.parametrize("name", ["a b", "x[1]*?{a}", "~", "con", "...", "-x", "é" * 100])
def test_names_that_are_names(name):
    assert storage.as_file_name(name, "") == Path(name)
