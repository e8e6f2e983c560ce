"""Contracts as checks that any sampler, backbone or scenario, yours too, can be put to.

Each check runs on a tiny built world, takes well under a second, and raises ``AssertionError``
with a sentence that says what is broken::

    from cnsdiff.testing import check_sampler

    def test_my_sampler_keeps_the_contract():
        check_sampler(MySampler)
"""

from cnsdiff.testing.components import (
    DIM,
    check_backbone,
    check_sampler,
    make_batch,
    make_context,
    tiny_positives,
)
from cnsdiff.testing.scenarios import check_scenario, tiny_source

__all__ = [
    "DIM",
    "check_backbone",
    "check_sampler",
    "check_scenario",
    "make_batch",
    "make_context",
    "tiny_positives",
    "tiny_source",
]
