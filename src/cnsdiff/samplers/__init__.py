"""Negative samplers: static ones, ones that choose among candidates, and a file for each other."""

from cnsdiff.samplers.adar import ADARSampler
from cnsdiff.samplers.adversarial import AdversarialSampler
from cnsdiff.samplers.base import (
    SAMPLERS,
    Batch,
    Context,
    Items,
    Negatives,
    Sampler,
    SamplerConfig,
    SharedItems,
    SharedVectors,
    Vectors,
)
from cnsdiff.samplers.candidates import (
    AHNSSampler,
    CurriculumSampler,
    DNSMNSampler,
    DNSSampler,
    SoftmaxRhoSampler,
)
from cnsdiff.samplers.cnsdiff import CNSDiffSampler
from cnsdiff.samplers.dens import DENSSampler
from cnsdiff.samplers.exposure_diffusion import ExposureDiffusionSampler
from cnsdiff.samplers.mixgcf import MixGCFSampler
from cnsdiff.samplers.screened import ScreenedSampler
from cnsdiff.samplers.srns import SRNSSampler
from cnsdiff.samplers.static import ExposureSampler, PopularitySampler, RandomSampler

__all__ = [
    "SAMPLERS",
    "ADARSampler",
    "AHNSSampler",
    "AdversarialSampler",
    "Batch",
    "CNSDiffSampler",
    "Context",
    "CurriculumSampler",
    "DENSSampler",
    "DNSMNSampler",
    "DNSSampler",
    "ExposureDiffusionSampler",
    "ExposureSampler",
    "Items",
    "MixGCFSampler",
    "Negatives",
    "PopularitySampler",
    "RandomSampler",
    "SRNSSampler",
    "Sampler",
    "SamplerConfig",
    "ScreenedSampler",
    "SharedItems",
    "SharedVectors",
    "SoftmaxRhoSampler",
    "Vectors",
]
