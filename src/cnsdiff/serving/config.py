"""Settings of the service."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from cnsdiff.base.errors import ConfigError
from cnsdiff.base.settings import Settings, complaint
from cnsdiff.recommender.config import read_config_file


class ServiceConfig(Settings):
    """How a service answers; the YAML file of ``cnsdiff serve --config`` holds these keys."""

    environment: str = "live"
    """``"live"`` follows the events, ``"trained"`` stays that of the end of training, and a file
    names what is added to the score of each item (columns ``item`` and ``bias``)."""
    refresh: Annotated[float, Field(gt=0)] = 60.0
    """Seconds between two computations of the live environment."""
    follow: Annotated[float, Field(gt=0)] = 1.0
    """Seconds until a change of versions or items by another process is seen."""
    types: tuple[str, ...] | None = None
    """The types of events that count as interactions; all, if not given."""
    item_features: Path | None = None
    """A table of items and attributes to filter by, where the run's dataset has none."""
    index: Literal["auto", "exact", "ivf"] = "auto"
    """``"exact"`` scores each item for each list, ``"ivf"`` those that an index of faiss finds and
    those that the environment ranks first; ``"auto"`` takes the index where faiss is installed, the
    table of item vectors holds more than 50 million numbers, and the index finds 95% of the exact
    lists of some users. Models without vectors are exact."""
    explore: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The probability that one place of a list, drawn uniformly, is given to an item drawn
    uniformly from those that come next."""
    explore_from: Annotated[int, Field(ge=1, le=1_000)] = 50
    """How many come next."""
    log_answers: bool = True
    """Keep what was shown, for ``cnsdiff audit --answers``."""
    tokens: tuple[Annotated[str, Field(pattern=r"^[!-~]+$")], ...] = ()
    """Bearer tokens that writing takes; the environment variable CNSDIFF_TOKENS adds some,
    separated by commas."""
    hosts: tuple[Annotated[str, Field(pattern=r"^(\*|(\*\.)?[\w.-]+)$")], ...] = ()
    """Names by which the service is asked for, besides its addresses, ``localhost`` and the name
    that it listens at: ``shop.example``, ``*.example`` for all below it, ``*`` for any."""
    max_body: Annotated[int, Field(ge=1_000, le=10**9)] = 4_000_000
    """Bytes of a request."""
    transfer_timeout: Annotated[float, Field(gt=0)] = 30.0
    """Seconds within which the head of a request must have come, then its body, and within which
    an answer must be read."""
    max_events: Annotated[int, Field(ge=1, le=10**6)] = 10_000
    """Events of a request."""
    max_k: Annotated[int, Field(ge=1, le=10**6)] = 100_000
    """The sum of ``k`` over the lists of a request."""
    max_ids: Annotated[int, Field(ge=1, le=10**7)] = 100_000
    """Ids that the rules of all lists of a request name, those to exclude for instance."""
    rate: Annotated[float, Field(ge=0)] = 0.0
    """What one client address may ask for in a second, beyond which it is told to wait: each list
    of a batch, event and item counts, and each other request; 0 for no limit."""
    filter_memory: Annotated[int, Field(ge=0, le=10**11)] = 128_000_000
    """Bytes of the results of filters that each version keeps, 5 for each item and filter."""
    timeout: Annotated[float, Field(gt=0)] = 10.0
    """Seconds after which an answer that waits for the store is refused."""
    threads: Annotated[int, Field(ge=1, le=4096)] = 1
    """Of one product; requests are answered beside each other."""


def read_config(path: Path | None, **settings: object) -> ServiceConfig:
    """The settings of a YAML file, of the environment, and of keywords, which come last.

    Parameters
    ----------
    path
        ``None`` for the defaults.
    settings
        ``None`` leaves a setting as it is.

    Raises
    ------
    ConfigError
        The file cannot be read, or a setting is wrong.
    """
    tree = {} if path is None else read_config_file(path)
    tree |= {name: value for name, value in settings.items() if value is not None}
    from_shell = [token.strip() for token in os.environ.get("CNSDIFF_TOKENS", "").split(",")]
    if any(from_shell):
        tree["tokens"] = [*(tree.get("tokens") or ()), *filter(None, from_shell)]
    try:
        return ServiceConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(complaint(error, ServiceConfig, str(path or "the service"))) from error
