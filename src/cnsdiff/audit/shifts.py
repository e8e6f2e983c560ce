"""The shifts that a log can show: which its columns allow, and how each is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from cnsdiff.audit.record import LeftOut
from cnsdiff.base.errors import ConfigError, did_you_mean
from cnsdiff.base.text import parameter
from cnsdiff.evaluation.anticipation import PEOPLE, Anticipated
from cnsdiff.recommender.config import nested
from cnsdiff.training.config import TrainingConfig

if TYPE_CHECKING:
    from cnsdiff.audit.log import Log


@dataclass(frozen=True)
class Shift:
    """A shift that an audit knows.

    Attributes
    ----------
    name
        Of the scenario.
    title
        For headings.
    phrase
        Goes on a sentence: "it would lose … if popularity shifted".
    meaning
        What the test under it stands for, in a sentence.
    anticipate
        The validation objective that expects it, or ``"rehearsal"`` (``docs/choosing.md``).
    without_training
        That by which vectors of another system are read, which cannot be rehearsed.
    settings
        Of the scenario, where they are not its own.
    training
        Settings that shape the objective, by dotted key.
    """

    name: str
    title: str
    phrase: str
    meaning: str
    anticipate: Literal[Anticipated, "rehearsal"]
    without_training: Anticipated
    settings: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, str] = field(default_factory=dict)

    @property
    def selection(self) -> TrainingConfig:
        """The training settings by which an objective for this shift is made."""
        return TrainingConfig.model_validate(nested(self.training).get("training", {}))


#: Shifts that come in any case, so that nothing has to be gained over today to be set for them.
CERTAIN = ("temporal",)

#: The certain one first: time goes by in any case. With little time the first come first.
SHIFTS: dict[str, Shift] = {
    shift.name: shift
    for shift in (
        Shift(
            "temporal",
            "Time",
            "as time goes by",
            "Train on the past, test on the newest fifth of the log.",
            "rehearsal",
            "recency",
        ),
        Shift(
            "hybrid",
            "Time and popularity",
            "as time goes by and popularity shifts",
            "The newest fifth of the log, with all of its items asked for alike.",
            "rehearsal",
            "inverse-popularity",
            training={"training.select_also": "inverse-popularity"},
        ),
        Shift(
            "popularity",
            "Popularity",
            "if popularity shifted",
            "All items are asked for alike: today's favourites lose their lead.",
            "inverse-popularity",
            "inverse-popularity",
            # Tests of equal size, so that nothing but the items differs between them.
            settings={"test_share": 0.111},
        ),
        Shift(
            "exposure",
            "Exposure",
            "if items were shown at random",
            "Users are shown items at random, and not what the system picks for them.",
            "inverse-propensity",
            "inverse-propensity",
        ),
        Shift(
            "user-group",
            "User group",
            "for a group of users that it has seen little of",
            "The users of one cluster of tastes, of whose interactions train has a fifth.",
            "worst-slice",
            "worst-slice",
            training={"training.select_slice_by": "activity"},
        ),
    )
}


def plan_shifts(
    log: Log, most: int, names: Sequence[str] = ()
) -> tuple[list[Shift], list[LeftOut]]:
    """The shifts that the columns of the log allow, the ``most`` important, and those left out.

    Where ``names`` are given, all of these and no others.

    Raises
    ------
    ConfigError
        A shift of the names is unknown or cannot be made.
    """
    for name in names:
        if name not in SHIFTS:
            raise ConfigError(
                f"{parameter('shifts')}: no shift is called {name!r}{did_you_mean(name, SHIFTS)}; "
                f"there are {', '.join(SHIFTS)}"
            )
        if (reason := _missing(log, name)) is not None:
            raise ConfigError(f"{parameter('shifts')} {name}: {reason}")
    if names:
        return [shift for name, shift in SHIFTS.items() if name in names], []
    missing = {name: _missing(log, name) for name in SHIFTS}
    possible = [shift for name, shift in SHIFTS.items() if missing[name] is None]
    left_out = [LeftOut(name=name, reason=lack) for name, lack in missing.items() if lack]
    left_out += [beyond_budget(shift) for shift in possible[max(most, 1) :]]
    return possible[: max(most, 1)], left_out


def beyond_budget(shift: Shift) -> LeftOut:
    """That there is no time for a shift."""
    ask = parameter("shifts", [shift.name])
    reason = f"the budget is too short for it; give more, or ask with {ask}"
    return LeftOut(name=shift.name, reason=reason)


def too_few(shift: Shift, n: int) -> LeftOut:
    """That too few people are tested under a shift."""
    ask = parameter("shifts", [shift.name])
    reason = (
        f"one of its tests has fewer than {n} users, which shows nothing; give a log of more "
        f"people, or of more days, or ask with {ask}"
    )
    return LeftOut(name=shift.name, reason=reason)


def _missing(log: Log, name: str) -> str | None:
    """The column that a log lacks for a shift, or ``None``."""
    columns = log.interactions.frame.columns
    if name in ("temporal", "hybrid") and "timestamp" not in columns:
        mend = f"name them with {parameter('timestamp', ...)}"
        return f"needs times, and the log has none that are known; {mend}"
    if name == "exposure" and "randomised" not in log.source.tables:
        return (
            "needs interactions with items shown at random; give them with "
            f"{parameter('randomised', ...)}, or mark them 'random' in a column named with "
            f"{parameter('period', ...)}; where nobody was shown any, ask some {PEOPLE} people, "
            f"and train with their answers ({parameter('target_sample', ...)} when preparing)"
        )
    return None
