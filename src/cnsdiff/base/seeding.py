"""All randomness from one seed: a separate, reproducible stream for each purpose.

A stream is a pure function of ``(seed, purpose, indices)``. The training loop asks for its
streams afresh at the start of each epoch, so that resuming after epoch ``e`` needs no saved
generator state to go on exactly as an undisturbed run would have.

:func:`uniforms` are random numbers that can be asked for by number: the draw for a pair of user and
item is a function of a key and the pair's number alone. Any pair can be asked about at any time, in
any order and block, and no table of users × items is ever stored.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch
from numpy.typing import NDArray


def derive_seed(seed: int, purpose: str, *indices: int) -> int:
    """A 63-bit seed for ``purpose`` (and, say, an epoch), independent of all other purposes."""
    # The indices as spawn key: in the entropy itself, trailing zeros would make no difference.
    sequence = np.random.SeedSequence([seed, zlib.crc32(purpose.encode())], spawn_key=indices)
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def torch_generator(
    seed: int, purpose: str, *indices: int, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A seeded generator on ``device`` for ``purpose``."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, purpose, *indices))


def numpy_generator(seed: int, purpose: str, *indices: int) -> np.random.Generator:
    """A seeded NumPy generator for ``purpose``."""
    return np.random.default_rng(derive_seed(seed, purpose, *indices))


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def splitmix64(key: int, counters: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Output ``counters`` (counted from 0) of the generator SplitMix64 seeded with ``key``.

    Steele, Lea & Flood, *Fast splittable pseudorandom number generators*, OOPSLA 2014: its state
    moves by a constant, so that output ``n`` needs no output before it.

    Parameters
    ----------
    key
        From 0 to ``2^64 - 1``.
    counters
        Of any shape, 0 or more.

    Returns
    -------
    NDArray[np.uint64]
        Of the shape of ``counters``.
    """
    z = np.array(counters, dtype=np.uint64)
    with np.errstate(over="ignore"):  # arithmetic is modulo 2^64, also for single numbers
        z += np.uint64(1)
        z *= _GOLDEN
        z += np.uint64(key)
        z ^= z >> np.uint64(30)
        z *= _FIRST
        z ^= z >> np.uint64(27)
        z *= _SECOND
        z ^= z >> np.uint64(31)
    return z


def uniforms(key: int, counters: NDArray[np.int64]) -> NDArray[np.float64]:
    """Uniform numbers in ``[0, 1)``, one for each counter; see :func:`splitmix64`."""
    bits = splitmix64(key, counters)
    bits >>= np.uint64(11)
    result = bits.astype(np.float64)  # 53 bits: exact
    result *= 2.0**-53
    return result
