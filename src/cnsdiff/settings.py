"""The bases of configuration sections and of files of ours, and what is wrong with one."""

from __future__ import annotations

from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError


class Settings(BaseModel):
    """A validated, immutable section of the configuration; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class Record(BaseModel):
    """What a file that we wrote says, checked on reading; other keys are let through."""

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
    """What is wrong, in parts, for a sentence of the caller's own."""
    problem = error.errors()[0]
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] in ("model_type", "dict_type"):  # would name a class of ours
        message = "must be a mapping of keys to values"
    return Problem(
        keys=problem["loc"],
        unknown=problem["type"] == "extra_forbidden",
        message=message[0].lower() + message[1:],
        given=problem["input"],
    )


def misfit(model: type[BaseModel], value: object) -> str | None:
    """Where a value read from a file does not fit, and why; ``None`` if it fits.

    Parameters
    ----------
    model
        Usually a :class:`Record`.
    value
        As JSON gives it.
    """
    try:
        model.model_validate(value)
    except ValidationError as error:
        problem = first_problem(error)
        place = ".".join(map(str, problem.keys))
        return f"{place}: {problem.message}" if place else problem.message
    return None


def shown(value: object, most: int = 100) -> str:
    """``repr`` of a value that is at fault, cut to what fits into a sentence."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, say
        return f"a {type(value).__name__} too large to show"
    return text if len(text) <= most else f"{text[:most]}…"
