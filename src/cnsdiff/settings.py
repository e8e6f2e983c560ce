"""The base of every configuration section, and what pydantic says when one is wrong."""

from __future__ import annotations

from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError


class Settings(BaseModel):
    """A validated, immutable section of the configuration; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


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
    return Problem(
        keys=problem["loc"],
        unknown=problem["type"] == "extra_forbidden",
        message=message[0].lower() + message[1:],
        given=problem["input"],
    )
