"""Negative samplers, one file each."""

from cnsdiff.samplers.base import SAMPLERS, Batch, Context, Negatives, Sampler, SamplerConfig
from cnsdiff.samplers.cnsdiff import CNSDiffSampler
from cnsdiff.samplers.random import RandomSampler

__all__ = [
    "SAMPLERS",
    "Batch",
    "CNSDiffSampler",
    "Context",
    "Negatives",
    "RandomSampler",
    "Sampler",
    "SamplerConfig",
]
