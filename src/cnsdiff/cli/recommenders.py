"""A recommender as the options of a command describe it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cnsdiff.recommender.recommender import Recommender


def recommender_of(
    backbone: str | None,
    sampler: str | None,
    preset: str,
    config: Path | None,
    assignments: Sequence[str],
    select_on: str | None,
    seed: int | None,
    device: str | None,
    threads: int | None,
) -> Recommender:
    """The recommender that ``--backbone``, ``--sampler``, ``--config``, ``--set`` … ask for.

    Raises
    ------
    ConfigError
        The file cannot be read, or an assignment is none.
    """
    from cnsdiff.base.errors import ConfigError, did_you_mean
    from cnsdiff.base.settings import shown
    from cnsdiff.recommender.config import Config, merge, parse_assignments, read_config_file
    from cnsdiff.recommender.recommender import Recommender
    from cnsdiff.recommender.run_directory import as_options

    overrides = read_config_file(config) if config else {}
    overrides = merge(overrides, parse_assignments(assignments))
    for key, value in (("seed", seed), ("device", device), ("threads", threads)):
        if value is not None:
            overrides[key] = value
    if select_on is not None:
        overrides = merge(overrides, {"training": {"select_on": select_on}})
    sources = [str(config)] * bool(config) + ["--set"] * bool(assignments or not config)
    source = " or ".join(sources)
    # Before they are arguments: `source` in a file is no argument of the recommender.
    for key in overrides:
        if key not in Config.model_fields:
            known = list(Config.model_fields)
            hint = did_you_mean(key, known) or f"; known keys: {', '.join(known)}"
            raise ConfigError(f"{source}: unknown key {shown(key)}{hint}")
    options = as_options({"backbone": {}, "sampler": {}} | overrides)
    return Recommender(backbone, sampler, preset=preset, source=source, **options)
