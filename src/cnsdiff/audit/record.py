"""Records of ``audit.json``, for writing and reading.

An edited or damaged file is refused with the name of the field, not by whichever part of a report
meets it first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    FiniteFloat,
    JsonValue,
    PlainSerializer,
    PlainValidator,
    model_validator,
)

from cnsdiff.base.errors import RunError
from cnsdiff.base.settings import Record, shown, validated
from cnsdiff.base.storage import read_json, refusing_damage, require_version
from cnsdiff.base.text import Command
from cnsdiff.data.directory import funnel_of
from cnsdiff.data.interactions import Step
from cnsdiff.display.wording import listed
from cnsdiff.evaluation.significance import Difference, Interval

FILE = "audit.json"
#: Moves with the fields below; :func:`read_audit` brings earlier versions up to it.
SCHEMA_VERSION = 2


def _interval(ends: object) -> Interval:
    if isinstance(ends, Interval):
        return ends
    if not isinstance(ends, list) or len(ends) != 3 or not all(map(_number_or_null, ends)):
        raise ValueError("must be a value and the ends of its interval, each a number or null")
    return Interval(*(math.nan if end is None else float(end) for end in ends))


def _number_or_null(end: object) -> bool:
    if end is None:
        return True
    number = isinstance(end, int | float) and not isinstance(end, bool)
    return number and math.isfinite(end)  # type: ignore[arg-type]


def _as_list(interval: Interval) -> list[float | None]:
    ends = (interval.value, interval.low, interval.high)
    return [end if math.isfinite(end) else None for end in ends]


#: With fewer users in a test there is no interval, no mark and no advice: what a user gains from
#: one setting over another spreads about as much as accuracy is large, so that not even a
#: difference of a fifth could be told from 0 (1.96 / sqrt(96) = 0.2).
FEW_USERS = 100
#: The limit of a shift whose tests cannot be compared, so that its losses are unknown.
NOT_COMPARABLE = (
    "The users of the OOD test have far more or fewer items to find than those of the IID "
    "test, so what is lost cannot be told; methods can be compared all the same."
)

Count = Annotated[int, Field(ge=0, lt=2**63)]
#: In JSON ``[value, low, high]``; null where one is unknown.
Estimate = Annotated[Interval, PlainValidator(_interval), PlainSerializer(_as_list)]
Metric = Annotated[str, Field(pattern=r"^(recall|ndcg)@[1-9]\d{0,8}$")]
Test = Literal["test_iid", "test_ood"]
#: The rules of an advice: no advice of too few users; validation's choice for the shift, or for
#: today, as the test bears it out; another that the test shows better, with and without doubt left
#: by the number of its rivals; a simpler one that is level with these.
Case = Literal["too few", "expected", "plain", "better", "both", "simpler"]
#: How far a verdict can be trusted; ``"none"`` where there is none.
Confidence = Literal["high", "medium", "low", "none"]


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
    problems: list[dict[str, JsonValue]] = Field(default_factory=list)
    funnel: Annotated[list[Step], BeforeValidator(funnel_of)] = Field(default_factory=list)
    """From the rows read to the pairs; empty in files from before it."""


class BudgetRecord(Record):
    """Time: allowed, and used."""

    seconds: FiniteFloat | None = None
    words: str
    used: FiniteFloat


class MethodRecord(Record):
    """A method: its name and its kind."""

    title: str
    about: str


class DifferenceRecord(Record):
    """One setting less another."""

    difference: Estimate
    p: FiniteFloat | None = None
    sign: Literal[-1, 0, 1]

    @classmethod
    def of(cls, difference: Difference) -> DifferenceRecord:
        """An interval of a bootstrap."""
        return cls(difference=difference, p=difference.p_value, sign=difference.sign)


class AgainstUsual(Record):
    """A setting less the usual recommender, on one test."""

    difference: Estimate
    p: FiniteFloat
    p_holm: FiniteFloat


class Accuracies(Record):
    """Accuracy on both tests, and what is lost between them.

    The interval of ``lost_matched`` is one of prediction, for as many other users.
    """

    iid: Estimate
    ood: Estimate
    iid_matched: Estimate
    lost_matched: Estimate


class SettingRecord(Accuracies):
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
    against_usual: dict[Test, AgainstUsual]
    found_iid: FiniteFloat | None = None
    found_ood: FiniteFloat | None = None
    coverage: FiniteFloat | None = None
    popularity: FiniteFloat | None = None
    gini: FiniteFloat | None = None
    """Of lists of 20 for users of the OOD test. Like the shares of users of each test with a hit
    among the first 20 (``found_…``) unknown in older files."""


class ShownRecord(Record):
    """An item of a list, and whether the person took it in the OOD test."""

    item: str
    wanted: bool


class PersonRecord(Record):
    """A user as an example: some of what they had and then took, and lists by keys of rows."""

    user: str
    n_history: Count
    history: list[str]
    n_wanted: Count
    wanted: list[str]
    lists: dict[str, list[ShownRecord]]


class DistanceRecord(Record):
    """From train, and by chance alone."""

    js: FiniteFloat
    chance: FiniteFloat | None


class SizeOfSplit(Record):
    """A split's spread over the items, and its distance from train."""

    pairs: Count = 0
    n_users: Count = 0
    n_items: Count = 0
    head: FiniteFloat = 0.0
    deciles: list[FiniteFloat]
    dropped_unknown: Count | None = None
    items: DistanceRecord | None = None
    users: DistanceRecord | None = None
    time: DistanceRecord | None = None


class SizeRecord(Record):
    """The size of a shift."""

    splits: dict[str, SizeOfSplit]
    words: str
    problems: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _all(self) -> SizeRecord:
        if missing := {"train", "valid", "test_iid", "test_ood"} - self.splits.keys():
            raise ValueError(f"has no split {sorted(missing)[0]!r}")
        return self


class AdviceRecord(Record):
    """The recommendation for a shift; rows of the table by their keys."""

    use: str
    title: str
    expected: str
    plain: str
    trained: str | None
    reference: str | None
    brings: DifferenceRecord
    costs: DifferenceRecord
    use_over_usual: DifferenceRecord
    use_costs: DifferenceRecord
    words: str
    reference_words: str
    break_even: Annotated[FiniteFloat, Field(ge=0, le=1)] | None = None
    """Least probability of the shift from which ``use`` pays; unknown where nothing is traded."""
    break_even_words: str = ""
    case: Case | None = None
    """By which rule it was made (docs/audit.md); unknown in older files."""
    chosen: str | None = None
    """The row that validation alone chooses."""
    best: str | None = None
    """The row that the test shows best of those it could tell apart."""
    commands: list[str]
    commands_of: str
    code: str | None = None
    """That fits a reference, in files from before references could be trained."""


class Rival(DifferenceRecord):
    """A recommender from elsewhere less one of the settings, and that setting."""

    title: str
    value: Estimate


class Rivals(Record):
    """Beside what validation chooses for the shift, what is best today, and the usual one."""

    expected: Rival
    plain: Rival
    usual: Rival


class Against(Record):
    """The same on both tests."""

    test_iid: Rivals
    test_ood: Rivals


class SignsRecord(Record):
    """Signs in the lists of what they were learnt from."""

    train: Estimate
    held_out: Estimate
    ratio: Estimate
    n_users: Count = 0


class Dialled(Accuracies):
    """Vectors from elsewhere, read at the dial that validation picks."""

    dial: FiniteFloat
    brings: DifferenceRecord
    costs: DifferenceRecord
    words: str


class OutsideRecord(Accuracies):
    """A recommender that was not trained here."""

    name: str
    kind: Literal["recommendations", "embeddings"]
    metric: Metric
    counts: dict[str, int | str]
    without_list: dict[Test, Count]
    of_this_shift: bool
    against: Against
    dialled: Dialled | None
    signs: SignsRecord
    words: str
    caveats: list[str]
    warnings: list[str]
    notes: list[str]


class SplitsRecord(Record):
    """The dataset of a shift."""

    name: str = ""
    fingerprint: str = ""
    users: Count = 0
    items: Count = 0
    pairs: dict[str, Count]


class UsersRecord(Record):
    """Users of each test."""

    test_iid: Count
    test_ood: Count


class ShiftRecord(Record):
    """All that is known of one shift."""

    name: str
    title: str
    phrase: str
    meaning: str
    anticipate: str
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    dataset: SplitsRecord
    size: SizeRecord
    n_users: UsersRecord
    effective_pairs: FiniteFloat
    table: Annotated[list[SettingRecord], Field(min_length=1)]
    usual: str
    recommendation: AdviceRecord
    confidence: Confidence = "none"
    confidence_words: str = ""
    """Why; empty in files from before it."""
    how_extreme: str = ""
    sought: FiniteFloat | None = None
    """Interactions in train of an item that the OOD test's users took, on average."""
    people: list[PersonRecord] = Field(default_factory=list)
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
                raise ValueError(
                    f"{name} is {shown(key)}, which is not a key of a row of the table"
                )
        return self

    def row(self, key: str) -> SettingRecord:
        """A row of the table."""
        return next(row for row in self.table if row.key == key)


class WonBackRecord(Record):
    """One list of all items, known and new, for all later pairs, with content and without it."""

    title: str
    """Of the setting that was trained."""
    used: bool
    """Whether content was used; items held out may have said that it tells nothing."""
    without: FiniteFloat
    content: FiniteFloat
    of_new: FiniteFloat
    """With content, of new items in lists of new items."""
    brings: DifferenceRecord
    """With content less without."""
    n_users: Count


class NewItemsRecord(Record):
    """Later pairs on items that nobody took before the cut of the shift in time."""

    pairs: Count
    """Later pairs of users known before the cut; of all of the log, also where users were drawn."""
    new_pairs: Count
    """Of these, on items that are new."""
    items: Count
    """New items among them."""
    with_features: Count
    """Of the new items, those of which features were given."""
    won_back: WonBackRecord | None = None
    """What features win back; ``None`` where it was not measured."""
    command: str | None = None
    """Trains the setting with content, where content brings something."""
    words: str


class LeftOut(Record):
    """A shift that is not measured, and why, with what would change that."""

    name: str
    reason: str


class Failure(Record):
    """A method that failed."""

    method: str
    shift: str
    error: str


class AuditRecord(Record):
    """The whole file."""

    schema_version: Literal[2] = 2
    created_by: str
    name: str
    verdict: str
    more_verdicts: list[str]
    log: LogRecord
    metric: Metric
    masked: str = "train"
    seed: int
    budget: BudgetRecord
    methods: dict[str, MethodRecord]
    shifts: list[ShiftRecord]
    new_items: NewItemsRecord | None = None
    """``None`` where there are none, no shift in time was measured, or in older files."""
    left_out: list[LeftOut]
    failures: list[Failure]
    notes: list[str]

    @property
    def missing(self) -> list[str]:
        """What was left out or cut short, in sentences: to be read before any number."""
        told = [f"{absent.name} was not measured: {absent.reason}." for absent in self.left_out]
        for shift in self.shifts:
            there = {row.method for row in shift.table}
            ended = [row.method for row in shift.table if row.stopped_by == "time"]
            for methods, what in (
                ([m for m in shift.unfinished if m not in there], "no time was left to train {}"),
                ([m for m in shift.unfinished if m in there], "no time was left to set {} for it"),
                (ended, "the clock ended the training of {}"),
            ):
                titles = [
                    self.methods[method].title if method in self.methods else method
                    for method in dict.fromkeys(methods)
                ]
                if titles:
                    told.append(f"{shift.title}: {what.format(listed(titles))}.")
        return told


def read_audit(folder: Path) -> AuditRecord:
    """The result of the audit in a directory, of this version or an earlier one.

    Raises
    ------
    RunError
        It holds no finished audit, one of an unknown version, or a damaged one.
    """
    file = folder / FILE
    mend = "run the audit again"
    audit = Command("audit", "LOG", out=folder)
    missing = RunError(f"{folder}: holds no finished audit; run {audit}")
    with refusing_damage(file, mend, missing=missing):
        content = read_json(file)
        stated = content.get("schema_version") if isinstance(content, dict) else None
        if stated == 1 and stated is not True:
            content = _since_version_1(content)
        require_version(file, content, SCHEMA_VERSION, mend)
        return validated(AuditRecord, content)


def _since_version_1(tree: Any) -> Any:
    """Version 1 called what is lost at equal numbers of items to find ``loss``."""
    if isinstance(tree, Mapping):
        renamed = {("lost_matched" if key == "loss" else key): tree[key] for key in tree}
        renamed = {key: _since_version_1(value) for key, value in renamed.items()}
        return renamed | ({"schema_version": SCHEMA_VERSION} if "schema_version" in tree else {})
    return [_since_version_1(each) for each in tree] if isinstance(tree, list) else tree
