"""From an HTTP request to Leanplum's arguments: query and body merged, the body wins (fact sheet
§1, §10).
"""

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from app.simulator.shelf import Upload
from app.simulator.values import parsed_data

CSV_BODY = "(body)"  # the name under which a body of CSV stands among the files


class Unreadable(Exception):
    """The request's body isn't what its content type says, or holds no arguments."""


@dataclass(frozen=True)
class Received:
    """The arguments of a request, and its files; a file is an argument too, "(file NAME)"."""

    args: dict[str, Any]
    files: dict[str, Upload] = field(default_factory=dict)


async def read_request(content_type: str, query: str, body: bytes) -> Received:
    """The arguments, `data` parsed to what a multi means by it, and the files."""
    found = await _from_body(content_type, body)
    shown = {
        name: f"(file {upload.filename})"
        for name, upload in found.files.items()
        if name != CSV_BODY
    }
    args = {**dict(parse_qsl(query, keep_blank_values=True)), **found.args, **shown}
    if "data" in args:
        args["data"] = parsed_data(args["data"])
    return Received(args, found.files)


async def _from_body(content_type: str, body: bytes) -> Received:
    if not body.strip():
        return Received({})
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _from_multipart(content_type, body)
    if kind == "application/x-www-form-urlencoded":
        return Received(dict(parse_qsl(_text(body), keep_blank_values=True)))
    if kind == "text/csv":
        return Received({}, {CSV_BODY: Upload("body", body)})
    return Received(_from_json(body))


def _from_json(body: bytes) -> dict[str, Any]:
    """JSON, also as the text/plain that JavaScript clients send; a bare array is the `data` of a
    multi.
    """
    try:
        value = json.loads(body)
    except ValueError as error:
        raise Unreadable(f"body is not JSON ({error})") from error
    if isinstance(value, list):
        return {"data": value}
    if not isinstance(value, dict):
        raise Unreadable("body is not a JSON object")
    return value


async def _from_multipart(content_type: str, body: bytes) -> Received:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        form = await MultiPartParser(Headers({"content-type": content_type}), stream()).parse()
    except (MultiPartException, KeyError) as error:
        raise Unreadable("body is not multipart/form-data") from error
    args = {name: value for name, value in form.items() if isinstance(value, str)}
    parts = {name: value for name, value in form.items() if isinstance(value, UploadFile)}
    files = {name: Upload(part.filename or "", await part.read()) for name, part in parts.items()}
    await form.close()
    return Received(args, files)


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise Unreadable("body is not UTF-8") from error
