"""Memory kept for reuse, the peak in use, and what is free."""

from __future__ import annotations

import resource
import sys

import pytest
import torch

from cnsdiff.base.errors import InputError
from cnsdiff.kernels import memory
from cnsdiff.kernels.memory import free_memory, freed_memory_kept, peak_memory, require_memory


def faults(work) -> int:
    """Pages that the kernel had to supply meanwhile."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def come_and_go() -> None:
    for _ in range(20):
        torch.zeros(2**24)  # 64 MiB, more than glibc ever keeps by itself


@pytest.mark.skipif(memory._glibc() is None, reason="the C library is not glibc")
def test_blocks_of_a_size_are_used_again():
    with freed_memory_kept():
        come_and_go()
        kept = faults(come_and_go)
    assert kept < 1000 < faults(come_and_go)


def test_where_the_library_is_another_nothing_happens(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    with freed_memory_kept():
        assert torch.ones(3).sum() == 3


def test_the_peak_grows_with_what_is_held():
    before = peak_memory(torch.device("cpu"))
    held = torch.ones(before // 4 + 2**26)  # as many bytes as the peak so far, and more
    assert before + 2**27 < peak_memory(torch.device("cpu"))
    del held


def test_free_memory_is_the_least_that_a_limit_leaves(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY,) * 2)
    whole = free_memory()
    assert 0 < whole < 2**50
    limit = memory._address_space() + 1_000_000
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limit, limit))
    assert 0 <= free_memory() <= 1_000_000
    monkeypatch.setattr(memory, "_left_in_the_group", lambda: iter([5_000]))
    assert free_memory() == 5_000


def test_more_than_is_free_is_refused(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda: 2 * 10**9)
    require_memory(2 * 10**9, "this", "do that")
    with pytest.raises(InputError, match=r"^this needs about 3.0 GB of memory, and 2.0 GB are"):
        require_memory(3 * 10**9, "this", "do that")


@pytest.mark.parametrize(
    ("limit", "used", "cached"),
    [
        ("max", "current", "inactive_file"),
        ("limit_in_bytes", "usage_in_bytes", "total_inactive_file"),
    ],
)
def test_what_control_groups_leave(tmp_path, limit, used, cached):
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    for folder, most, taken in (
        (inner, "1000", 400),
        (tmp_path / "a", "max", 5),
        (tmp_path, 900, 500),
    ):
        (folder / f"memory.{limit}").write_text(f"{most}\n")
        (folder / f"memory.{used}").write_text(f"{taken}\n")
        (folder / "memory.stat").write_text(f"anon 7\n{cached} 50\n")
    assert list(memory._left_below(tmp_path, "/a/b", limit, used, cached)) == [650, 450]
    assert list(memory._left_below(tmp_path, "/not/here", limit, used, cached)) == [450]
