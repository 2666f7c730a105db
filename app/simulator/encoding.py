"""From an HTTP request to Leanplum's arguments: query and body merged, the body wins (fact sheet §1, §10)."""

import json
from collections.abc import AsyncGenerator
from typing import Any
from urllib.parse import parse_qsl

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from app.simulator.values import parsed_data


class Unreadable(Exception):
    """The request's body isn't what its content type says, or holds no arguments."""


async def read_args(content_type: str, query: str, body: bytes) -> dict[str, Any]:
    """The arguments of a request, `data` parsed to what a multi means by it."""
    args: dict[str, Any] = dict(parse_qsl(query, keep_blank_values=True))
    args |= await _from_body(content_type, body)
    if "data" in args:
        args["data"] = parsed_data(args["data"])
    return args


async def _from_body(content_type: str, body: bytes) -> dict[str, Any]:
    if not body.strip():
        return {}
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _from_multipart(content_type, body)
    if kind == "application/x-www-form-urlencoded":
        return dict(parse_qsl(_text(body), keep_blank_values=True))
    return _from_json(body)


def _from_json(body: bytes) -> dict[str, Any]:
    """JSON, also as the text/plain that JavaScript clients send; a bare array is the `data` of a multi."""
    try:
        value = json.loads(body)
    except ValueError as error:
        raise Unreadable(f"body is not JSON ({error})") from error
    if isinstance(value, list):
        return {"data": value}
    if not isinstance(value, dict):
        raise Unreadable("body is not a JSON object")
    return value


async def _from_multipart(content_type: str, body: bytes) -> dict[str, Any]:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        form = await MultiPartParser(Headers({"content-type": content_type}), stream()).parse()
    except (MultiPartException, KeyError) as error:
        raise Unreadable("body is not multipart/form-data") from error
    await form.close()
    return {name: _field(value) for name, value in form.items()}


def _field(value: str | UploadFile) -> str:
    return value if isinstance(value, str) else f"(file {value.filename})"


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise Unreadable("body is not UTF-8") from error
