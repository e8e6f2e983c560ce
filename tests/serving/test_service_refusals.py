"""Sentences of what is wrong with a request: ours, for every error that pydantic knows."""

from __future__ import annotations

import contextlib
import json
import re

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError
from pydantic_core._pydantic_core import list_all_errors
from service_parts import train

from cnsdiff.serving import refusals, schemas
from cnsdiff.serving.app import create_app
from cnsdiff.serving.refusals import misfit_sentence
from cnsdiff.serving.service import Service
from cnsdiff.serving.store import Store

BODIES = [
    schemas.RecommendRequest,
    schemas.BatchRequest,
    schemas.SimilarRequest,
    schemas.ExplainRequest,
    schemas.EventsRequest,
    schemas.ItemsRequest,
    schemas.VersionRequest,
    schemas.ActivateRequest,
]
#: Something of each kind that JSON can hold, small, large and strange.
VALUES = [
    *(None, True, 0, -1, 10**30, 1.5, 1e400, float("nan"), "", "x", "5", "a" * 5000, "a\0"),
    *("\ud800", [], [1], ["x"] * 20_000, [None], [[]], [{}], [{"k": -1}], [{"item": 1}], {}),
    *({"a": 1}, {"": 1}, {"a" * 200: 1}, {"a": []}, {"a": {"min": "x"}}, {"a": {"size": 1}}),
    *({"a": 1e400}, {"a": -1}, {"a\0": 1}),
]
#: Words of pydantic's and Python's that are not ours.
FOREIGN = re.compile(
    r"Input|[Vv]alue error|Field required|Extra|valid (string|integer|number|list|dict|boolean)|"
    r"dictionary|instance|validation|parse|None|True|False|\n"
)


def errors_of(model, value):
    with contextlib.suppress(ValidationError):
        model.model_validate(value)
        return []
    try:
        model.model_validate(value)
    except ValidationError as error:
        return error.errors()


def all_errors():
    """Of each body, of each of its fields, and of those of the entries of its lists."""
    for model in BODIES:
        for value in VALUES:
            yield from ((model, error) for error in errors_of(model, value))
            for field in model.model_fields:
                yield from ((model, error) for error in errors_of(model, {field: value}))
    for field, model, name in (
        ("requests", schemas.BatchRequest, schemas.RecommendRequest),
        ("events", schemas.EventsRequest, schemas.EventBody),
        ("items", schemas.ItemsRequest, schemas.ItemBody),
    ):
        for inner in name.model_fields:
            for value in VALUES:
                body = {field: [{inner: value}]}
                yield from ((model, error) for error in errors_of(model, body))


def test_every_sentence_is_ours_and_names_the_field():
    kinds = set()
    for model, error in all_errors():
        kinds.add(error["type"])
        sentence = misfit_sentence({**error, "loc": ("body", *error["loc"])}, model)
        assert not FOREIGN.search(sentence), sentence
        assert len(sentence) < 500, sentence
        for key in error["loc"]:
            if isinstance(key, str) and key in model.model_fields:
                assert key in sentence
        assert "as described at /docs" not in sentence  # each has words of its own
    # Nothing in the table is of no use; the query alone reads numbers from text.
    assert kinds - {"extra_forbidden", "value_error"} <= refusals._WORDS.keys()
    query_or_json = {"model_attributes_type", "less_than"}
    query_or_json |= {"int_parsing", "int_parsing_size", "int_from_float"}
    assert refusals._WORDS.keys() - kinds <= query_or_json


@pytest.mark.parametrize("kind", [error["type"] for error in list_all_errors()])
def test_no_word_of_pydantic_whatever_it_finds(kind):
    """Also of errors that no field has today."""
    known = next(error for error in list_all_errors() if error["type"] == kind)
    context = {**(known.get("example_context") or {}), "error": ValueError("must be of use")}
    sentence = misfit_sentence(
        {"type": kind, "loc": ("body", "field"), "input": [], "ctx": context, "msg": "Input"}
    )
    assert sentence.startswith(("field: ", "the body: has no field 'field'"))
    assert not FOREIGN.search(sentence)


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    folder = tmp_path_factory.mktemp("refusals")
    with Store.open(f"sqlite:///{folder}/store.db") as store:
        service = Service(store)
        service.serve(train(folder / "run"))
        with TestClient(create_app(service), "http://localhost") as client:
            yield client


AS_JSON = "send a JSON object with the header Content-Type: application/json"


@pytest.mark.parametrize(
    ("content", "kind", "sentence"),
    [
        ('{"k": 1}', "text/plain", f"the body does not come as JSON; {AS_JSON}"),
        ('{"k": 1}', None, f"the body does not come as JSON; {AS_JSON}"),
        (
            "user=1",
            "application/x-www-form-urlencoded",
            f"the body does not come as JSON; {AS_JSON}",
        ),
        ("", "application/json", f"the body is missing; {AS_JSON}"),
        ("", None, f"the body is missing; {AS_JSON}"),
        ("[1]", "application/json", f"the body is not a JSON object; {AS_JSON}"),
        ('"x"', "application/json", f"the body is not a JSON object; {AS_JSON}"),
        ("null", "application/json", f"the body is not a JSON object; {AS_JSON}"),
        (
            "{k: 1}",
            "application/json",
            "the body is not JSON, at character 1 (Expecting property name enclosed in double "
            f"quotes); {AS_JSON}",
        ),
        (
            '{"user": "\\ud800", "k": 2}',
            "application/json",
            "user: must not hold half of a surrogate pair",
        ),
    ],
)
def test_a_body_that_is_no_object(client, content, kind, sentence):
    headers = {} if kind is None else {"Content-Type": kind}
    answer = client.post("/recommend", content=content, headers=headers)
    assert answer.status_code == 422
    assert answer.json()["error"].startswith(sentence)


@pytest.mark.parametrize(
    ("method", "path", "body", "sentence"),
    [
        ("POST", "/recommend", {"k": 0}, "k: must be at least 1, not 0"),
        ("POST", "/recommend", {"k": 1001}, "k: must be at most 1,000, not 1001"),
        ("POST", "/recommend", {"k": None}, "k: must be a whole number, not null"),
        ("POST", "/recommend", {"k": "x" * 100}, "k: must be a whole number"),
        ("POST", "/recommend", {"user": ["a"]}, "user: must be text"),
        (
            *("POST", "/recommend", {"exclude": "a"}),
            'exclude: must be a list, not "a"',
        ),
        (
            *("POST", "/recommend", {"boost": {"": 1}}),
            "the name '' in boost: must have at least 1 character, not \"\"",
        ),
        ("POST", "/versions", {"path": 1}, "path: must be text, not 1"),
        ("POST", "/recommend", {"seen": "some"}, "seen: must be 'all' or 'none', not \"some\""),
        (
            *("POST", "/recommend", {"where": {"price": {"from": 5}}}),
            "where.price: must be true, false, a number, text of at most 500 characters, a list of "
            '1 to 1,000 of these, or a range of numbers as {"min": 1, "max": 5}',
        ),
        (
            *("POST", "/recommend/batch", {"requests": [{}, {"kk": 1}]}),
            "requests.1: has no field 'kk' (did you mean 'k'?); its fields are k, exclude, only, "
            "where, user, session, quotas, pin, boost, bury, dial, seen",
        ),
        ("POST", "/similar", {}, "item: is missing; give it"),
        ("POST", "/events", {"events": []}, "events: must have at least 1 entry"),
        (
            *("POST", "/events", {"events": [{"event": 1}]}),
            "events.0.event_id: is missing; give it",
        ),
        (
            *("PUT", "/items", {"items": [{"item": 1, "features": {"a": {"b": 1}}}]}),
            "items.0.features.a: must be true, false, a number, text of at most 500 characters, a "
            "list of at most 100,000 of these, or null",
        ),
        (
            *("POST", "/versions", {"path": "x", "name": "a b"}),
            "name: must be at most 128 letters, digits, dots, dashes and underscores",
        ),
        ("POST", "/activate", {"version": "a", "share": 0}, "share: must be more than 0, not 0"),
        ("GET", "/recommend?k=x", None, 'k: must be a whole number, not "x"'),
        ("GET", f"/recommend?k={'9' * 5000}", None, "k: must be a whole number of fewer digits"),
        (
            *("GET", "/recommend?users=17", None),
            "the query: has no field 'users' (did you mean 'user'?); its fields are user, k, seen",
        ),
        ("GET", "/recommend?seen=1", None, "seen: must be 'all' or 'none', not \"1\""),
        ("GET", "/recommend?user=", None, 'user: must have at least 1 character, not ""'),
        ("DELETE", f"/users/{'u' * 600}", None, "user: must have at most 500 characters"),
    ],
)
def test_what_a_field_must_be(client, method, path, body, sentence):
    content = None if body is None else json.dumps(body)
    answer = client.request(
        method, path, content=content, headers={"Content-Type": "application/json"}
    )
    assert (answer.status_code, answer.json()["error"]) == (422, sentence)
