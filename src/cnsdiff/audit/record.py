"""What ``audit.json`` holds: its fields, checked when it is read again.

Only what a reader of the file relies on is declared; the rest is let through. An edited or damaged
file is then refused with the name of the field, not by whichever part of a report meets it first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat, model_validator

from cnsdiff.audit.settings import SCHEMA_VERSION
from cnsdiff.base.errors import RunError
from cnsdiff.base.settings import Record, misfit, shown
from cnsdiff.base.spelling import Command
from cnsdiff.base.storage import first_line, read_json

FILE = "audit.json"

Count = Annotated[int, Field(ge=0, lt=2**63)]
#: A value, and the ends of its interval; null where they cannot be told.
Estimate = Annotated[list[FiniteFloat | None], Field(min_length=3, max_length=3)]
Metric = Annotated[str, Field(pattern=r"^(recall|ndcg)@[1-9]\d{0,8}$")]
Split = Literal["train", "valid", "test_iid", "test_ood"]
Test = Literal["test_iid", "test_ood"]


class LogRecord(Record):
    """The log that was audited."""

    source: str
    checksum: str
    rows: Count
    users: Count
    items: Count
    columns: dict[str, str]
    threshold: FiniteFloat | None
    notes: list[str]


class BudgetRecord(Record):
    """Time: allowed, and used."""

    words: str
    used: FiniteFloat


class MethodRecord(Record):
    """What a method is called, and what it is."""

    title: str
    about: str


class DifferenceRecord(Record):
    """One setting less another."""

    difference: Estimate
    sign: Literal[-1, 0, 1]


class AgainstUsual(Record):
    """Whether a setting differs from the usual recommender on a test."""

    p_holm: float


class SettingRecord(Record):
    """A method, read as one objective of validation picks it."""

    key: str
    method: str
    selection: str
    title: str
    validation: float | None
    dial: FiniteFloat | None
    epochs: Count
    seconds: FiniteFloat
    stopped_by: str
    iid: Estimate
    ood: Estimate
    iid_matched: Estimate
    loss: Estimate
    against_usual: dict[Test, AgainstUsual]


class DistanceRecord(Record):
    """From train, and by chance alone."""

    js: FiniteFloat
    chance: FiniteFloat | None


class SizeOfSplit(Record):
    """How a split is spread over the items, and how far it is from train."""

    deciles: list[FiniteFloat]
    items: DistanceRecord | None = None
    users: DistanceRecord | None = None
    time: DistanceRecord | None = None


class SizeRecord(Record):
    """How large a shift is."""

    splits: dict[Split, SizeOfSplit]
    words: str

    @model_validator(mode="after")
    def _all(self) -> SizeRecord:
        if missing := {"train", "valid", "test_iid", "test_ood"} - self.splits.keys():
            raise ValueError(f"has no split {sorted(missing)[0]!r}")
        return self


class AdviceRecord(Record):
    """What to use for a shift; rows of the table by their keys."""

    use: str
    title: str
    expected: str
    plain: str
    trained: str | None
    reference: str | None
    use_over_usual: DifferenceRecord
    use_costs: DifferenceRecord
    words: str
    reference_words: str
    commands: list[str]
    commands_of: str
    code: str | None


class Beside(Record):
    """A recommender from elsewhere beside what validation chooses."""

    expected: DifferenceRecord


class Against(Record):
    """The same on both tests."""

    test_iid: Beside
    test_ood: Beside


class SignsRecord(Record):
    """What the lists give away of what they were learnt from."""

    train: Estimate
    held_out: Estimate
    ratio: Estimate


class Dialled(Record):
    """Vectors from elsewhere, read at the dial that validation picks."""

    words: str


class OutsideRecord(Record):
    """A recommender that was not trained here."""

    name: str
    metric: Metric
    iid: Estimate
    ood: Estimate
    loss: Estimate
    against: Against
    dialled: Dialled | None
    signs: SignsRecord
    words: str
    caveats: list[str]
    warnings: list[str]
    notes: list[str]


class SplitsRecord(Record):
    """The dataset of a shift."""

    pairs: dict[Split, Count]


class UsersRecord(Record):
    """Users of each test."""

    test_iid: Count
    test_ood: Count


class ShiftRecord(Record):
    """All that was found under one shift."""

    name: str
    title: str
    meaning: str
    anticipate: str
    dataset: SplitsRecord
    size: SizeRecord
    n_users: UsersRecord
    table: Annotated[list[SettingRecord], Field(min_length=1)]
    usual: str
    recommendation: AdviceRecord
    outside: list[OutsideRecord]
    unfinished: list[str]
    limits: list[str]

    @model_validator(mode="after")
    def _keys(self) -> ShiftRecord:
        advice = self.recommendation
        known = {row.key for row in self.table}
        for name, key in (
            ("usual", self.usual),
            *((name, getattr(advice, name)) for name in ("use", "expected", "plain")),
        ):
            if key not in known:
                raise ValueError(f"{name} is {shown(key)}, which is no key of a row of the table")
        return self


class LeftOut(Record):
    """A shift that was not measured."""

    name: str
    reason: str


class Failure(Record):
    """A method that failed."""

    method: str
    shift: str
    error: str


class AuditRecord(Record):
    """The whole file."""

    created_by: str
    name: str
    verdict: str
    more_verdicts: list[str]
    log: LogRecord
    metric: Metric
    seed: int
    budget: BudgetRecord
    methods: dict[str, MethodRecord]
    shifts: list[ShiftRecord]
    left_out: list[LeftOut]
    failures: list[Failure]
    notes: list[str]


def read_audit(folder: Path) -> dict[str, Any]:
    """What the audit in a directory found.

    Raises
    ------
    RunError
        It holds no finished audit, one of another version, or a damaged one.
    """
    file = folder / FILE
    try:
        result: dict[str, Any] = read_json(file)
    except FileNotFoundError as error:
        raise RunError(
            f"{folder}: holds no finished audit; run {Command('audit', 'LOG', out=folder)}"
        ) from error
    except (OSError, ValueError) as error:
        raise RunError(f"{file}: is damaged ({first_line(error)}); run the audit again") from error
    if not isinstance(result, dict) or result.get("schema_version") != SCHEMA_VERSION:
        raise RunError(f"{file}: is of another version of audits; run the audit again")
    if problem := misfit(AuditRecord, result):
        raise RunError(f"{file}: is damaged ({problem}); run the audit again")
    return result
