"""Finding a component by name: the built-in ones, and those other packages register.

A package adds its own by an entry point in the group ``cnsdiff.samplers`` or
``cnsdiff.backbones`` whose object is the class.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from cnsdiff.backbones.lightgcn import LightGCN
from cnsdiff.backbones.mf import MF
from cnsdiff.errors import ConfigError, did_you_mean
from cnsdiff.samplers.cnsdiff import CNSDiffSampler
from cnsdiff.samplers.random import RandomSampler

BUILT_IN: dict[str, dict[str, type[Any]]] = {
    "backbones": {"mf": MF, "lightgcn": LightGCN},
    "samplers": {"random": RandomSampler, "cnsdiff": CNSDiffSampler},
}


def available(kind: str) -> list[str]:
    """Names of all ``backbones`` or ``samplers`` that can be asked for."""
    found = {point.name for point in entry_points(group=f"cnsdiff.{kind}")}
    return sorted(found | set(BUILT_IN[kind]))


def find(kind: str, name: str) -> type[Any]:
    """The class registered under ``name``; :class:`ConfigError` names the nearest if unknown."""
    if name in BUILT_IN[kind]:
        return BUILT_IN[kind][name]
    for point in entry_points(group=f"cnsdiff.{kind}", name=name):
        loaded: type[Any] = point.load()
        return loaded
    names = available(kind)
    raise ConfigError(
        f"no {kind[:-1]} is called {name!r}{did_you_mean(name, names)}; "
        f"available: {', '.join(names)}"
    )
