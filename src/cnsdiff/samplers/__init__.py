"""Negative samplers, one file each."""

from cnsdiff.samplers.ahns import AHNSSampler
from cnsdiff.samplers.base import SAMPLERS, Batch, Context, Negatives, Sampler, SamplerConfig
from cnsdiff.samplers.cnsdiff import CNSDiffSampler
from cnsdiff.samplers.curriculum import CurriculumSampler
from cnsdiff.samplers.dns import DNSSampler
from cnsdiff.samplers.dns_mn import DNSMNSampler
from cnsdiff.samplers.popularity import PopularitySampler
from cnsdiff.samplers.random import RandomSampler
from cnsdiff.samplers.softmax_rho import SoftmaxRhoSampler

__all__ = [
    "SAMPLERS",
    "AHNSSampler",
    "Batch",
    "CNSDiffSampler",
    "Context",
    "CurriculumSampler",
    "DNSMNSampler",
    "DNSSampler",
    "Negatives",
    "PopularitySampler",
    "RandomSampler",
    "Sampler",
    "SamplerConfig",
    "SoftmaxRhoSampler",
]
