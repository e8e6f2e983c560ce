"""Backbones: modules that give every user and every item an embedding."""

from cnsdiff.backbones.base import BACKBONES, Backbone, BackboneConfig, Embeddings
from cnsdiff.backbones.lightgcn import LightGCN
from cnsdiff.backbones.mf import MF

__all__ = ["BACKBONES", "MF", "Backbone", "BackboneConfig", "Embeddings", "LightGCN"]
