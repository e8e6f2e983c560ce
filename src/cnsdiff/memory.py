"""Main memory: freed blocks kept for reuse while tensors come and go, and the peak in use."""

from __future__ import annotations

import contextlib
import ctypes
import resource
import sys
from collections.abc import Iterator

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
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
