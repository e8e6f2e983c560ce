"""What a hyper-parameter search may choose, and the settings it tries.

The settings of trial ``t`` are a function of the search's seed, ``t`` and the names searched, and
of nothing else: any number of trials can run at once, a search that was killed goes on where it
was, and all methods of a grid are tried at the *same* values of the settings they share.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from cnsdiff.errors import ConfigError
from cnsdiff.seeding import derive_seed
from cnsdiff.settings import Settings

INSTALL = "install it with: pip install 'cnsdiff[bench]'"


class Space(Settings):
    """The values a setting may take: ``choices``, or all between ``low`` and ``high``."""

    choices: tuple[bool | int | float | str | None, ...] | None = Field(None, min_length=1)
    low: float | None = Field(None, allow_inf_nan=False)
    high: float | None = Field(None, allow_inf_nan=False)
    log: bool = Field(False, description="uniform in the logarithm")
    integer: bool = Field(False, description="whole numbers only")

    @model_validator(mode="after")
    def _check(self) -> Space:
        bounds = (self.low, self.high)
        if (self.choices is None) == (bounds == (None, None)):
            raise ValueError("give choices, or low and high")
        if self.choices is not None and (self.log or self.integer):
            raise ValueError("log and integer go with low and high, not with choices")
        if self.choices is None:
            if self.low is None or self.high is None or not self.low < self.high:
                raise ValueError("low and high must both be there, and low below high")
            if self.log and self.low <= 0:
                raise ValueError("log needs a low above 0")
            if self.integer and not (self.low.is_integer() and self.high.is_integer()):
                raise ValueError("integer needs whole low and high")
        return self

    def distribution(self) -> Any:
        """As Optuna's distribution."""
        from optuna.distributions import (
            CategoricalDistribution,
            FloatDistribution,
            IntDistribution,
        )

        if self.choices is not None:
            return CategoricalDistribution(self.choices)
        assert self.low is not None and self.high is not None
        if self.integer:
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)


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
        found[name] = _short(value, space[name])
    return found


def _short(value: Any, space: Space) -> Any:
    """Three digits of a number: nobody needs 17 of a learning rate, and tables can be read."""
    if not isinstance(value, float) or space.low is None or space.high is None:
        return value
    return min(max(float(f"{value:.3g}"), space.low), space.high)
