"""Negative samplers, one file each."""

from cnsdiff.samplers.ahns import AHNSSampler
from cnsdiff.samplers.base import SAMPLERS, Batch, Context, Negatives, Sampler, SamplerConfig
from cnsdiff.samplers.cnsdiff import CNSDiffSampler
from cnsdiff.samplers.curriculum import CurriculumSampler
from cnsdiff.samplers.dens import DENSSampler
from cnsdiff.samplers.dns import DNSSampler
from cnsdiff.samplers.dns_mn import DNSMNSampler
from cnsdiff.samplers.exposure import ExposureSampler
from cnsdiff.samplers.exposure_diffusion import ExposureDiffusionSampler
from cnsdiff.samplers.mixgcf import MixGCFSampler
from cnsdiff.samplers.popularity import PopularitySampler
from cnsdiff.samplers.random import RandomSampler
from cnsdiff.samplers.softmax_rho import SoftmaxRhoSampler
from cnsdiff.samplers.srns import SRNSSampler

__all__ = [
    "SAMPLERS",
    "AHNSSampler",
    "Batch",
    "CNSDiffSampler",
    "Context",
    "CurriculumSampler",
    "DENSSampler",
    "DNSMNSampler",
    "DNSSampler",
    "ExposureDiffusionSampler",
    "ExposureSampler",
    "MixGCFSampler",
    "Negatives",
    "PopularitySampler",
    "RandomSampler",
    "SRNSSampler",
    "Sampler",
    "SamplerConfig",
    "SoftmaxRhoSampler",
]
