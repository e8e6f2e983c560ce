"""What is wrong with a request, in one sentence that names the field and the mend."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from cnsdiff.base.errors import CnsdiffError, ConflictError, InputError, StorageError, did_you_mean
from cnsdiff.base.text import visible
from cnsdiff.serving.bounds import BoundError
from cnsdiff.serving.schemas import Refusal
from cnsdiff.serving.service import NotReadyError, UnknownError

_CODES = {
    400: "The host is none of the service's.",
    401: "The bearer token is missing or none that is known.",
    404: "An id or a version is unknown.",
    408: "The body did not come in time.",
    409: "It does not fit which versions are active and on trial.",
    413: "The body is too large.",
    422: "What is asked for is not understood.",
    429: "Too many requests; wait.",
    503: "The store cannot be read or written, or no version is active.",
}
#: Of the library's errors, the first that fits.
_STATUS = (
    (NotReadyError, 503),
    (StorageError, 503),
    (UnknownError, 404),
    (ConflictError, 409),
    (InputError, 422),
)
_AS_JSON = "send a JSON object with the header Content-Type: application/json"
#: By pydantic's type of an error, with its context: what the field must be.
_WORDS = {
    "missing": "is missing; give it",
    "string_type": "must be text",
    "string_too_short": "must have at least {min_length:,} character",
    "string_too_long": "must have at most {max_length:,} characters",
    "string_unicode": "must not hold half of a surrogate pair",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number of fewer digits",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "greater_than": "must be more than {gt:,g}",
    "greater_than_equal": "must be at least {ge:,g}",
    "less_than": "must be less than {lt:,g}",
    "less_than_equal": "must be at most {le:,g}",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "literal_error": "must be {expected}",
    "list_type": "must be a list",
    "too_short": "must have at least {min_length:,} entry",
    "too_long": "must have at most {max_length:,} entries; give fewer, or send several requests",
    "dict_type": 'must be an object of names and values, as {{"name": 1}}',
    "model_type": "must be an object of fields and values",
    "model_attributes_type": "must be an object of fields and values",
}
#: Characters of a name and of a value that a sentence repeats.
_SHOWN = 60


def may_be(*codes: int) -> Any:
    """Refusals of a route, as FastAPI documents them."""
    return {code: {"description": _CODES[code], "model": Refusal} for code in codes}


class TokenError(Exception):
    """A write without a known token."""


def misfit_sentence(error: Mapping[str, Any], model: type[BaseModel] | None = None) -> str:
    """What is wrong with a field, in a sentence.

    Parameters
    ----------
    error
        As FastAPI has it: ``type``, ``loc``, ``input`` and perhaps ``ctx``.
    model
        Of the body or the query, whose fields are named where one is unknown.
    """
    kind, value, context = error["type"], error.get("input"), error.get("ctx") or {}
    where, *keys = error["loc"]  # "body", "query" or "path" comes first
    if kind == "extra_forbidden":
        *above, last = map(str, keys)
        known = _fields(model, above)
        hint = did_you_mean(last[:_SHOWN], known)
        listed = f"; its fields are {', '.join(known)}" if known else ""
        place = _place(above) or f"the {where}"
        return f"{place}: has no field {last[:_SHOWN]!r}{hint}{listed}"
    if not keys:
        what = "is not a JSON object"
        if kind == "missing" or isinstance(value, bytes):
            what = "is missing" if kind == "missing" else "does not come as JSON"
        return f"the body {what}; {_AS_JSON}"
    if kind == "value_error":
        return f"{_place(keys)}: {context['error']}"
    words = _WORDS.get(kind, "is not as described at /docs").format(**context)
    return f"{_place(keys)}: {words}{_instead(kind, value)}"


def _place(keys: Sequence[int | str]) -> str:
    """``requests.3.k``; a key that pydantic finds fault with is marked as one."""
    names = [str(key)[:_SHOWN] for key in keys if key != "[key]"]
    place = ".".join(names)
    return f"the name {names[-1]!r} in {'.'.join(names[:-1])}" if keys[-1:] == ["[key]"] else place


def _instead(kind: str, value: object) -> str:
    """What came in the place of a value, where it is short."""
    if kind == "missing" or not isinstance(value, bool | int | float | str | None):
        return ""
    text = json.dumps(value, ensure_ascii=False)
    return f", not {text}" if len(text) <= _SHOWN else ""


def _fields(model: type[BaseModel] | None, keys: Sequence[str]) -> list[str]:
    """The fields of the model at a place below another."""
    for key in keys:
        if model is not None and key in model.model_fields:
            model = _model_in(model.model_fields[key].annotation)
    return [] if model is None else list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The first model that a type is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)


def add_refusals(app: FastAPI) -> None:
    """Answer errors of requests and of the library by one sentence and a status."""

    def refusal(status: int, message: str, **headers: str) -> JSONResponse:
        return JSONResponse({"error": visible(message)}, status_code=status, headers=headers)

    @app.exception_handler(RequestValidationError)
    def misfit(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            at, why = first["loc"][-1], first["ctx"]["error"]
            return refusal(422, f"the body is not JSON, at character {at:,} ({why}); {_AS_JSON}")
        asked = request.scope["route"].dependant
        fields = asked.query_params if first["loc"][0] == "query" else asked.body_params
        model = _model_in(fields[0].field_info.annotation) if fields else None
        return refusal(422, misfit_sentence(first, model))

    @app.exception_handler(TokenError)
    def untrusted(request: Request, error: TokenError) -> JSONResponse:
        return refusal(
            401,
            str(error) or "this needs a token; send the header Authorization: Bearer TOKEN",
            **{"WWW-Authenticate": "Bearer"},
        )

    @app.exception_handler(HTTPException)
    def misplaced(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 400:  # a body that the parser gives up on
            return refusal(
                422,
                "the body is not JSON in UTF-8, is nested too deeply, or has too long a number; "
                f"{_AS_JSON}",
            )
        return refusal(
            error.status_code,
            f"{request.method} {request.url.path[:_SHOWN]}: is no request of this service; all "
            "requests are described at /docs",
            **(error.headers or {}),
        )

    @app.exception_handler(BoundError)
    def beyond(request: Request, error: BoundError) -> JSONResponse:
        return error.response

    @app.exception_handler(Exception)
    def broken(request: Request, error: Exception) -> JSONResponse:
        return refusal(500, "the service failed at this request; its log says how")

    @app.exception_handler(CnsdiffError)
    def failed(request: Request, error: CnsdiffError) -> JSONResponse:
        status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
        return refusal(status, str(error))
