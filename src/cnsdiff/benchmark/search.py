"""The settings that a benchmark's search tries.

The settings of trial ``t`` are a function of the search's seed, ``t`` and the names searched, and
of nothing else: any number of trials can run at once, a search that was killed goes on where it
was, and all methods of a grid are tried at the *same* values of the settings they share.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cnsdiff.base.errors import ConfigError
from cnsdiff.base.search_space import Space
from cnsdiff.base.seeding import derive_seed

INSTALL = "install it with: pip install 'cnsdiff[bench]'"


def settings_of(trial: int, space: Mapping[str, Space], seed: int) -> dict[str, Any]:
    """What trial ``trial`` sets: nothing for trial 0, else a draw from ``space``.

    Raises
    ------
    ConfigError
        Optuna is not installed.
    """
    if trial == 0 or not space:
        return {}
    try:
        import optuna
    except ImportError as error:
        raise ConfigError(f"a search of more than one trial needs Optuna; {INSTALL}") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found = {}
    for name in sorted(space):
        # A stream per name: what one method searches beside does not move the others' values.
        stream = derive_seed(seed, f"search/{name}", trial) % 2**32
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=stream))
        value = study.ask({name: space[name].distribution()}).params[name]
        found[name] = space[name].short(value)
    return found
