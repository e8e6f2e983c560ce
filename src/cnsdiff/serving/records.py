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
    """Which versions answer since a moment.

    ``previous`` is what a rollback gives; one version at most is on trial beside the active one:
    a canary, which a share of the users get, or a shadow, which nobody does.
    """

    seq: int
    at: float
    active: str
    previous: str | None = None
    canary: str | None = None
    share: float = 0.0
    shadow: str | None = None
    salt: str = ""

    @property
    def trial(self) -> str | None:
        """The version on trial."""
        return self.canary or self.shadow

    @property
    def answering(self) -> list[str]:
        """The versions that are asked for lists."""
        return [name for name in (self.active, self.canary, self.shadow) if name is not None]

    @property
    def kind(self) -> str:
        """Of the trial, in words."""
        return "a shadow" if self.canary is None else f"a canary for {self.share:.4g} of the users"
