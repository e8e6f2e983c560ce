"""Backbones: modules that give every user and every item an embedding."""

from cnsdiff.backbones.base import BACKBONES, MF, Backbone, BackboneConfig, Embeddings
from cnsdiff.backbones.dr_gnn import DRGNN
from cnsdiff.backbones.lightgcn import LightGCN

__all__ = ["BACKBONES", "DRGNN", "MF", "Backbone", "BackboneConfig", "Embeddings", "LightGCN"]
