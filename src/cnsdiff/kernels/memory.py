"""Main memory: freed blocks kept for reuse, the peak in use, and what there is still."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cnsdiff.base.errors import InputError, is_of_memory

if TYPE_CHECKING:
    import torch

# Parameters of glibc's mallopt(3), and values for them.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_NO_TRIM = 2**31 - 1
_USUAL_TRIM, _USUAL_MMAP_THRESHOLD, _USUAL_MMAP_MAX = 2**26, 2**25, 65536


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Keep freed blocks in the process, for the next tensor of the size.

    A training step makes and drops the same tensors again and again. glibc hands large ones back to
    the kernel, which clears every page anew when it is first touched: for propagation on a small
    graph that costs three times the arithmetic. Where the C library is another, nothing happens.
    """
    library = _glibc()
    if library is None:
        yield
        return
    # Without mappings of their own, large blocks come from the heap, which is not trimmed.
    library.mallopt(_MMAP_MAX, 0)
    library.mallopt(_TRIM_THRESHOLD, _NO_TRIM)
    try:
        yield
    finally:
        # Where glibc's own adjustment, which mallopt ends, arrives in a process with large blocks.
        library.mallopt(_MMAP_MAX, _USUAL_MMAP_MAX)
        library.mallopt(_MMAP_THRESHOLD, _USUAL_MMAP_THRESHOLD)
        library.mallopt(_TRIM_THRESHOLD, _USUAL_TRIM)
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None


def peak_memory(device: torch.device) -> int:
    """Bytes of memory this process has had in use at most: of the GPU if it is one, else main.

    Main memory counts from the start of the process, the libraries it loads included.
    """
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def free_memory() -> int:
    """Bytes of main memory that this process may still take, as far as the system tells.

    The least of what the machine has left, what the control group of a container has left, and
    what ``ulimit -v`` leaves.
    """
    left = [2**62, _left_in_the_machine(), *_left_in_the_group()]
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        left.append(limit - _address_space())
    return max(0, min(left))


def require_memory(needed: int, what: str, mend: str) -> None:
    """Refuse work before it starts that would need more memory than there is.

    Parameters
    ----------
    needed
        Bytes, at the peak.
    what
        Begins the sentence: ``"EASE on 20,000 items"``.
    mend
        Ends it.

    Raises
    ------
    InputError
        Less than ``needed`` is free.
    """
    free = free_memory()
    if needed > free:
        raise InputError(
            f"{what} needs about {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are "
            f"free; {mend}"
        )


@contextlib.contextmanager
def shortage_told(what: str, mend: str) -> Iterator[None]:
    """Tell in a sentence that memory ran out; the words as in :func:`require_memory`.

    Raises
    ------
    InputError
        The work within failed for want of memory.
    """
    try:
        yield
    except (MemoryError, RuntimeError, ValueError) as error:
        if not is_of_memory(error):
            raise
        raise InputError(f"{what} needs more memory than there is; {mend}") from error


def _left_in_the_machine() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    except (OSError, ValueError, IndexError):
        pass
    try:  # as on macOS; without the pages that caches would give back
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 2**62


def _left_in_the_group() -> Iterator[int]:
    """Memory left by each control group of the process that has a limit."""
    top, lines = Path("/sys/fs/cgroup"), []
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    for _, kinds, own in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if not kinds:
            yield from _left_below(top, own, "max", "current", "inactive_file")
        elif "memory" in kinds.split(","):  # the first version, one hierarchy for each resource
            names = "limit_in_bytes", "usage_in_bytes", "total_inactive_file"
            yield from _left_below(top / "memory", own, *names)


def _left_below(top: Path, own: str, limit: str, used: str, cached: str) -> Iterator[int]:
    """Of a group and those it is in; in a container ``own`` may be what the host calls it."""
    group = top / own.lstrip("/")
    for folder in (group, *group.parents):
        if not folder.is_relative_to(top):
            return
        with contextlib.suppress(OSError, ValueError):
            most = int((folder / f"memory.{limit}").read_text())  # "max" is no limit
            taken = int((folder / f"memory.{used}").read_text())
            lines = (folder / "memory.stat").read_text().splitlines()
            # Cached files count as taken, and go when the memory is wanted.
            yield most - taken + int(dict(line.split() for line in lines).get(cached, 0))


def _address_space() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
