"""A call of Leanplum's API, decoded from an HTTP request (fact sheet §1, §3.7, §10)."""

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from app.simulator.actions.context import Refused
from app.simulator.app_state import CSV_BODY, CallContext, Upload
from app.simulator.arguments import decode_data, number, text, truthy
from app.simulator.config import Texts
from app.simulator.world import World

SDK_CLIENTS = frozenset({"android", "ios", "js"})


class UndecodableRequest(Exception):
    """The request's body does not match its content type, or holds no arguments."""


@dataclass(frozen=True)
class DecodedRequest:
    """The arguments of a request, and its files; each file is also an argument "(file NAME)"."""

    args: dict[str, Any]
    files: dict[str, Upload] = field(default_factory=dict)


@dataclass(frozen=True)
class ReceivedRequest:
    """An HTTP request as received."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    origin: str
    """The simulator's own address, as the sender knows it."""

    async def decode(self) -> DecodedRequest:
        """Merge query and body, where the body wins. Raises UndecodableRequest."""
        decoded = await _decode_body(self.headers.get("content-type", ""), self.body)
        file_args = {
            name: f"(file {upload.filename})"
            for name, upload in decoded.files.items()
            if name != CSV_BODY
        }
        args = {**dict(parse_qsl(self.query, keep_blank_values=True)), **decoded.args, **file_args}
        if "data" in args:
            args["data"] = decode_data(args["data"])
        return DecodedRequest(args, decoded.files)


@dataclass(frozen=True)
class SimulatedCall:
    """The arguments of a call, and its actions: the arguments themselves, or the entries of `data`.

    A multi with `createJob` or with a CSV body is a single action, which makes a job (fact sheet
    §3.7, §12.4).
    """

    args: dict[str, Any]
    items: list[dict[str, Any]]
    multi: bool
    context: CallContext

    @classmethod
    def from_request(cls, request: DecodedRequest, origin: str, texts: Texts) -> "SimulatedCall":
        """Split a request into actions. Raises Refused when `data` is not a list of objects."""
        args = request.args
        makes_job = truthy(args.get("createJob")) or CSV_BODY in request.files
        if text(args.get("action")) != "multi" or makes_job:
            return cls(args, [args], multi=False, context=CallContext(origin, request.files))
        items = args.get("data", [])
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise Refused(texts.invalid.format(name="data"), 400)
        return cls(args, items, multi=True, context=CallContext(origin, alone=False))

    @property
    def from_sdk(self) -> bool:
        """True when the call names a client SDK."""
        return text(self.args.get("client")) in SDK_CLIENTS

    @property
    def dev_mode(self) -> bool:
        """True when the call or one of its actions is in development mode."""
        if truthy(self.args.get("devMode")):
            return True
        return any(truthy(item.get("devMode")) for item in self.items)

    def users(self, world: World) -> list[str]:
        """Return the user id of each action, in order; "" for an action without a user."""
        return [
            world.user_id(text(item.get("userId")), text(item.get("deviceId")))
            for item in self.items
        ]

    def request_time(self, now: float) -> float:
        """Return the sender's clock: a multi's own `time`, else `now` (fact sheet §3.7)."""
        sent = number(self.args.get("time")) if self.multi else None
        return now if sent is None else sent


async def _decode_body(content_type: str, body: bytes) -> DecodedRequest:
    if not body.strip():
        return DecodedRequest({})
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        return await _decode_multipart(content_type, body)
    if media_type == "application/x-www-form-urlencoded":
        return DecodedRequest(dict(parse_qsl(_decode_text(body), keep_blank_values=True)))
    if media_type == "text/csv":
        return DecodedRequest({}, {CSV_BODY: Upload("body", body)})
    return DecodedRequest(_decode_json_body(body))


def _decode_json_body(body: bytes) -> dict[str, Any]:
    """Decode JSON of any content type (JS sends text/plain); an array is a multi's `data`."""
    try:
        value = json.loads(body)
    except ValueError as error:
        raise UndecodableRequest(f"body is not JSON ({error})") from error
    if isinstance(value, list):
        return {"data": value}
    if not isinstance(value, dict):
        raise UndecodableRequest("body is not a JSON object")
    return value


async def _decode_multipart(content_type: str, body: bytes) -> DecodedRequest:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        form = await MultiPartParser(Headers({"content-type": content_type}), stream()).parse()
    except (MultiPartException, KeyError) as error:
        raise UndecodableRequest("body is not multipart/form-data") from error
    args = {name: value for name, value in form.items() if isinstance(value, str)}
    parts = {name: value for name, value in form.items() if isinstance(value, UploadFile)}
    files = {name: Upload(part.filename or "", await part.read()) for name, part in parts.items()}
    await form.close()
    return DecodedRequest(args, files)


def _decode_text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise UndecodableRequest("body is not UTF-8") from error
