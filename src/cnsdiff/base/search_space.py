"""Search spaces of hyper-parameters, each declared beside its setting."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from cnsdiff.base.settings import Settings, kinds_of


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

    def short(self, value: Any) -> Any:
        """Three digits of a number drawn: nobody needs 17 of a learning rate."""
        if not isinstance(value, float) or self.low is None or self.high is None:
            return value
        return min(max(float(f"{value:.3g}"), self.low), self.high)

    def __contains__(self, value: object) -> bool:
        """Whether the setting may have this value."""
        if self.choices is not None:
            # 1 and True are equal, and not the same setting.
            return any(value == one and type(value) is type(one) for one in self.choices)
        assert self.low is not None and self.high is not None
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        whole = not self.integer or float(value).is_integer()
        return self.low <= value <= self.high and whole

    def ends(self) -> tuple[Any, ...]:
        """The values between which the others lie; all choices."""
        if self.choices is not None:
            return self.choices
        assert self.low is not None and self.high is not None
        return tuple(int(end) if self.integer else end for end in (self.low, self.high))

    @property
    def size(self) -> int | None:
        """Number of values; ``None`` for real numbers."""
        if self.choices is not None:
            return len(self.choices)
        assert self.low is not None and self.high is not None
        return int(self.high - self.low) + 1 if self.integer else None

    def __str__(self) -> str:
        """As ``cnsdiff tune --search`` takes it."""
        if self.choices is not None:
            return ",".join("null" if one is None else str(one) for one in self.choices)
        low, high = (f"{end:g}" for end in self.ends())
        return f"{low}..{high}{':log' if self.log else ''}"


class Searched:
    """Stands beside a setting that a search of hyper-parameters may choose, and says where.

    Parameters
    ----------
    **space
        Fields of :class:`Space`.

    Examples
    --------
    >>> class MyConfig(Settings):
    ...     share: Annotated[float, Searched(low=0.1, high=1.0)] = Field(0.5, ge=0, le=1)
    >>> declared_spaces(MyConfig())["share"].high
    1.0
    """

    def __init__(self, **space: Any) -> None:
        self.space = Space(**space)


def declared_spaces(settings: Settings) -> dict[str, Space]:
    """The space of each setting that declares one, by its dotted key, sections within included.

    Those that are idle as others are set have none.
    """
    found: dict[str, Space] = {}
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, Settings):
            found |= {f"{name}.{key}": space for key, space in declared_spaces(value).items()}
        for mark in field.metadata:
            if isinstance(mark, Searched):
                found[name] = mark.space
    return {key: space for key, space in found.items() if key not in settings.idle}


def value_at(settings: Settings, key: str) -> Any:
    """The value of a setting by its dotted key.

    Raises
    ------
    KeyError
        There is no such setting.
    """
    value: Any = settings
    for part in key.split("."):
        if not isinstance(value, Settings) or part not in type(value).model_fields:
            raise KeyError(key)
        value = getattr(value, part)
    return value


def takes_whole_numbers_only(settings: Settings, key: str) -> bool:
    """Whether a setting (by its dotted key) takes integers, and no other number."""
    *sections, name = key.split(".")
    owner = value_at(settings, ".".join(sections)) if sections else settings
    kinds = kinds_of(type(owner), name)
    return int in kinds and float not in kinds
