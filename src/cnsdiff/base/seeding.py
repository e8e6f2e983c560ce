"""All randomness from one seed: a separate, reproducible stream for each purpose.

A stream is a pure function of ``(seed, purpose, indices)``. The training loop asks for its
streams afresh at the start of each epoch, so that resuming after epoch ``e`` needs no saved
generator state to go on exactly as an undisturbed run would have.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch


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
