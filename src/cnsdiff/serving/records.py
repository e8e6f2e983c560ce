"""What a store keeps, row by row."""

from __future__ import annotations

from typing import NamedTuple


class Event(NamedTuple):
    """A user did something with an item."""

    event_id: str
    user: str
    item: str
    timestamp: float
    type: str | None = None


class Answer(NamedTuple):
    """A list that was shown; ``propensities`` are the chances of its items to be in it.

    ``rules`` is the request without user and ``k`` as JSON, ``{}`` if it had nothing else, and
    ``item_seq`` the number of the last change of an item by then: both ``None`` if not known.
    """

    request_id: str
    at: float
    user: str
    version: str
    arm: str
    arm_probability: float
    source: str
    k: int
    items: list[str]
    propensities: list[float]
    rules: str | None = None
    item_seq: int | None = None


class Version(NamedTuple):
    """A run directory that can be served, and what was measured of it."""

    name: str
    path: str
    added: float
    figures: dict[str, object]


class Activation(NamedTuple):
    """Which versions answer since a moment; ``share`` of the users get the canary."""

    seq: int
    at: float
    active: str
    previous: str | None
    canary: str | None
    share: float
    shadow: str | None
    salt: str
