"""Requests and answers of the service, as HTTP and Python both speak them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    StrictBool,
    StrictInt,
    StrictStr,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
)

from cnsdiff.serving.monitor import Hits, Minute, Taken

#: Characters of an id and its bytes in a store, ids in one list, and items in one answer.
LONGEST_ID, MOST_BYTES, MOST_IDS, LONGEST_LIST = 500, 1_000, 10_000, 1_000


def _or(sentence: str) -> WrapValidator:
    """One sentence for whatever is wrong with a value, where there are several kinds of it."""

    def validate(value: object, inner: ValidatorFunctionWrapHandler) -> object:
        try:
            return inner(value)
        except ValidationError:
            raise ValueError(sentence) from None

    return WrapValidator(validate)


def _text(value: object) -> object:
    return str(value) if type(value) is int and -(2**63) <= value < 2**64 else value


def _storable(value: str) -> str:
    if "\x00" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError("must not hold a null character or half of a surrogate pair")
    if len(value.encode()) > MOST_BYTES:
        raise ValueError(f"must have at most {MOST_BYTES:,} bytes in UTF-8")
    return value


def _seconds(value: object) -> object:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    try:
        moment = datetime.fromisoformat(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ValueError("must be seconds since 1970 or a date, as 2026-11-29T10:00:00Z") from None
    return moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()


#: An id as text: ``5`` and ``"5"`` are the same.
Id = Annotated[
    str,
    StringConstraints(strict=True, min_length=1, max_length=LONGEST_ID),
    BeforeValidator(_text),
    AfterValidator(_storable),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1, "maxLength": LONGEST_ID},
                {"type": "integer", "minimum": -(2**63), "maximum": 2**64 - 1},
            ]
        }
    ),
]
Ids = Annotated[list[Id], Field(max_length=MOST_IDS)]
Name = Annotated[str, Field(min_length=1, max_length=128)]
#: What a column of integers holds; larger ones would fail where they are computed with.
Integer = Annotated[StrictInt, Field(ge=-(2**63), lt=2**63)]
Scalar = StrictBool | Integer | FiniteFloat | Annotated[StrictStr, Field(max_length=LONGEST_ID)]


class Body(BaseModel):
    """Base of what is sent: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Range(Body):
    """Numbers from ``min`` to ``max``, both included."""

    min: FiniteFloat | None = None
    max: FiniteFloat | None = None


_VALUE = f"true, false, a number, text of at most {LONGEST_ID} characters"
#: Of an attribute: a value, one of several, or a range.
Condition = Annotated[
    Scalar | Annotated[list[Scalar], Field(min_length=1, max_length=1_000)] | Range,
    _or(
        f"must be {_VALUE}, a list of 1 to 1,000 of these, or a range of numbers as "
        '{"min": 1, "max": 5}'
    ),
]
#: Of an attribute of an item: a value, or several.
Feature = Annotated[
    Scalar | Annotated[list[Scalar], Field(max_length=100_000)] | None,
    _or(f"must be {_VALUE}, a list of at most 100,000 of these, or null"),
]


class Rules(Body):
    """What limits and arranges a list."""

    k: int = Field(20, ge=1, le=LONGEST_LIST, strict=True, description="Length of the list.")
    exclude: Ids = Field([], description="Items never to show.")
    only: Ids | None = Field(None, description="The only items to show.")
    where: dict[Name, Condition] = Field(
        {},
        description="What items must be: an attribute's value, one of several, or its range.",
        examples=[{"category": ["shoes", "hats"], "in_stock": True, "price": {"max": 50}}],
    )


class RecommendRequest(Rules):
    """A list for one user."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"user": "u17", "k": 10},
                {
                    "user": "u17",
                    "k": 10,
                    "where": {"category": ["shoes", "hats"], "in_stock": True},
                    "quotas": {"category": 3},
                    "exclude": ["i4"],
                    "pin": ["i9"],
                },
                {"session": ["i3", "i8"], "k": 5},
            ]
        }
    )

    user: Id | None = Field(None, description="Whose list; without one, of a visitor.")
    session: Ids = Field([], description="Items the user looks at now, which are no events.")
    quotas: dict[Name, Annotated[int, Field(ge=0)]] = Field(
        {}, description="At most so many items of each value of an attribute, while others exist."
    )
    pin: Annotated[list[Id], Field(max_length=LONGEST_LIST)] = Field(
        [], description="Items to show first, in this order, seen ones too."
    )
    boost: dict[Id, Annotated[float, Field(ge=-100, le=100, strict=True)]] = Field(
        {}, description="Added to an item's score, in standard deviations of the user's scores."
    )
    bury: Ids = Field([], description="Items to show only where no others are left.")
    dial: Annotated[float, Field(ge=-100, le=100, strict=True)] | None = Field(
        None, description="Read the model at this dial, not under its environment."
    )
    seen: Literal["all", "none"] = Field(
        "all", description="What a user has already, which is not shown again."
    )


class SimpleRequest(Body):
    """What of it fits into an address."""

    user: Id | None = None
    k: int = Field(20, ge=1, le=LONGEST_LIST)
    seen: Literal["all", "none"] = "all"


class BatchRequest(Body):
    """Lists for several users at once."""

    requests: list[RecommendRequest] = Field(min_length=1, max_length=1_000)


class SimilarRequest(Rules):
    """The items nearest to one."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"item": "i3", "k": 5}]})

    item: Id


class ExplainRequest(Body):
    """Why a user would be shown an item."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"user": "u17", "item": "i3"}]})

    user: Id | None = None
    item: Id
    session: Ids = []


class Ranked(BaseModel):
    """An item of a list."""

    item: str | int
    score: float


class RecommendAnswer(BaseModel):
    """A list, and what it was made from."""

    items: list[Ranked]
    source: Literal["trained", "folded-in", "session", "environment"] = Field(
        description="Where the user's taste comes from: training; training and events since; the "
        "session alone; or nowhere, so that the environment alone ranks."
    )
    version: str
    arm: str
    request_id: str


class BatchAnswer(BaseModel):
    """The answers to a batch, in its order."""

    answers: list[RecommendAnswer]


class SimilarAnswer(BaseModel):
    """The nearest items."""

    items: list[Ranked]
    version: str
    arm: str


class ExplainAnswer(BaseModel):
    """A score in parts."""

    score: float
    taste: float = Field(description="What the user's vector and the item's give.")
    environment: float = Field(
        description="What is added to this item's scores of all users; nothing to the mean item's, "
        "where the environment is live."
    )
    taste_share: float = Field(description="Share of items that are less to the user's taste.")
    environment_share: float = Field(
        description="Share of items that the environment adds less to."
    )
    covariates: dict[Literal["use", "age"], float] = Field(
        description="A live environment in parts, against the mean item: how often and how lately "
        "the item was taken, and since when it is there."
    )
    history: list[Ranked] = Field(description="The user's items nearest to this one.")
    source: str
    version: str
    arm: str


class Refusal(BaseModel):
    """Why there is no answer, in one sentence."""

    error: str


class EventBody(Body):
    """Something that a user did with an item."""

    event_id: Id = Field(description="The same event sent twice counts once.")
    user: Id
    item: Id
    timestamp: Annotated[FiniteFloat, Field(ge=0), BeforeValidator(_seconds)] = Field(
        description="Seconds since 1970, or a date as 2026-11-29T10:00:00Z."
    )
    type: Name | None = None


class EventsRequest(Body):
    """A batch of events."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "events": [
                        {"event_id": "e1", "user": "u17", "item": "i3", "timestamp": 1764410400}
                    ]
                }
            ]
        }
    )

    events: list[EventBody] = Field(min_length=1)


class EventsAnswer(BaseModel):
    """What came of a batch; it is on the disk by now."""

    new: int
    repeated: int


class ItemBody(Body):
    """An item and its features."""

    item: Id
    features: dict[Name, Feature] | None = Field(
        None, description="Without them, those that it has stay."
    )


class ItemsRequest(Body):
    """Items to add, or whose features changed."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"items": [{"item": "i900", "features": {"category": "hats", "price": 19.9}}]}
            ]
        }
    )

    items: list[ItemBody] = Field(min_length=1, max_length=10_000)


class VersionRequest(Body):
    """A run to serve."""

    path: str = Field(min_length=1, max_length=4_096, description="A run directory.")
    name: (
        Annotated[
            str,
            Field(pattern=r"^[\w.-]{1,128}$"),
            _or("must be at most 128 letters, digits, dots, dashes and underscores"),
        ]
        | None
    ) = None


class ActivateRequest(Body):
    """Who gets which version."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"version": "run-1a2b3c4d", "share": 0.1}]}
    )

    version: Name
    share: Annotated[float, Field(gt=0, le=1, strict=True)] = Field(
        1.0, description="Below 1, a canary: the version is given to this share of the users."
    )
    shadow: bool = Field(
        False, description="Answer with the active version; log what this one would have said."
    )
    replace: bool = Field(False, description="End the trial of another version, if there is one.")


class Figures(BaseModel):
    """A version."""

    path: str
    added: float
    loaded: bool
    figures: dict[str, object]


class State(BaseModel):
    """Who gets which version."""

    active: str
    previous: str | None
    canary: str | None
    share: float
    shadow: str | None
    versions: dict[str, Figures]


class DriftAnswer(BaseModel):
    """How far the latest events are from training (:mod:`cnsdiff.diagnostics.drift`)."""

    at: float
    js: float = Field(description="Jensen–Shannon divergence of the items taken, in nats.")
    chance: float = Field(description="What chance alone shows in a sample of this size.")
    bound: float = Field(description="What chance stays below in 95% of samples.")
    alarm: bool
    scenario: str | None = Field(description="The shift that it resembles.")
    message: str
    unknown_items: float
    unknown_users: float


class Status(State):
    """What the page at ``/`` shows."""

    environment: str
    environment_age: float | None = Field(description="Seconds since it was computed.")
    environment_moment: float | None = Field(description="Until when events are in it.")
    requests_per_second: float
    events_per_second: float
    p50: float | None
    p99: float | None
    minutes: list[Minute]
    drift: DriftAnswer | None
    drift_history: list[DriftAnswer]
    arms: list[Taken]
    hits: Hits | None = Field(
        description="Of the next events of users who were shown a list of the active version."
    )
    problem: str | None = Field(description="Why what is served is not what the store says.")
