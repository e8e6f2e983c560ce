"""The bases of configuration sections and of files of ours, and what is wrong with one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from cnsdiff.base.errors import did_you_mean

#: Seeds, and all whole numbers in settings, stay below this: what 64 bits hold.
BEYOND_WHOLE = 2**63
#: No number in settings is larger, whichever its sign: single precision ends at 3e38.
_MOST = 1e30
#: What pydantic adds to the place of a number that is one of several kinds of value.
_BRANCHES = ("constrained-int", "constrained-float")


Model = TypeVar("Model", bound=BaseModel)


class Settings(BaseModel):
    """A validated, immutable section of the configuration; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @property
    def idle(self) -> frozenset[str]:
        """Settings, by dotted key, that do nothing as others are set: no search tries them."""
        return frozenset()

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML's ``true`` is not 1."""
        if isinstance(value, bool) and info.field_name is not None:
            kinds = kinds_of(cls, info.field_name)
            if kinds & {int, float} and bool not in kinds:
                raise ValueError("must be a number, not true or false")
        return value

    @field_validator("*")
    @classmethod
    def _of_use(cls, value: Any) -> Any:
        """Refuse numbers that fit no machine's arithmetic, alone or in a list."""
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise ValueError("must be a finite number")
            if isinstance(number, float) and abs(number) > _MOST:
                raise ValueError(f"must lie between {-_MOST:g} and {_MOST:g}")
            if isinstance(number, int) and not -BEYOND_WHOLE <= number < BEYOND_WHOLE:
                raise ValueError("must lie between -2**63 and 2**63 - 1")
        return value


def kinds_of(model: type[BaseModel], name: str) -> set[Any]:
    """The plain types that a setting is made of."""
    return set(_kinds(model.model_fields[name].annotation))


def _kinds(annotation: Any) -> Iterator[Any]:
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        for part in get_args(annotation):
            yield from _kinds(part)
    elif origin is Annotated:
        yield from _kinds(get_args(annotation)[0])
    elif origin is not Literal:
        yield annotation


class Record(BaseModel):
    """Content of a file that we wrote, checked on reading; other keys are let through."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)


class Problem(NamedTuple):
    """The first thing wrong with some settings.

    Attributes
    ----------
    keys
        Where, from the outermost section in; empty if it is not one setting alone.
    unknown
        Whether there is no such setting.
    message
        What is wrong, to go on a sentence with.
    given
        The value at fault.
    """

    keys: tuple[int | str, ...]
    unknown: bool
    message: str
    given: Any


def first_problem(error: ValidationError) -> Problem:
    """The first fault, in parts, for a sentence of the caller's own."""
    problem = error.errors()[0]
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] in ("model_type", "dict_type"):  # would name a class of ours
        message = "must be a mapping of keys to values"
    return Problem(
        keys=tuple(key for key in problem["loc"] if key not in _BRANCHES),
        unknown=problem["type"] == "extra_forbidden",
        message=message[0].lower() + message[1:],
        given=problem["input"],
    )


def complaint(error: ValidationError, model: type[BaseModel], place: str) -> str:
    """The first thing wrong with settings, in a sentence that begins with their place."""
    problem = first_problem(error)
    setting = ".".join(map(str, problem.keys))
    if problem.unknown:
        known = list(model.model_fields)
        listed = f"its settings are {', '.join(known)}" if known else "it has none"
        return f"{place}: unknown setting {setting!r}{did_you_mean(setting, known)}; {listed}"
    if not setting:
        return f"{place}: {problem.message}"
    return f"{place}: {setting}: {problem.message} (got {problem.given!r})"


def validated(model: type[Model], value: object) -> Model:
    """A value read from a file as the model that it should fit.

    Parameters
    ----------
    model
        Usually a :class:`Record`.
    value
        As JSON gives it.

    Raises
    ------
    ValueError
        It does not fit; the message says where and why.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problem = first_problem(error)
        place = ".".join(map(str, problem.keys))
        raise ValueError(f"{place}: {problem.message}" if place else problem.message) from error


def shown(value: object, most: int = 100) -> str:
    """``repr`` of a value that is at fault, cut to what fits into a sentence."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, say
        return f"a {type(value).__name__} too large to show"
    return text if len(text) <= most else f"{text[:most]}…"
