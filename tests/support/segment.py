"""Segment's messages for tests, and what one of them becomes."""

import base64
from typing import Any

import httpx
import orjson

from app.compat.segment import classify, request
from app.errors import Invalid
from app.ingest.segment_context import SegmentRules
from app.ingest.validate import NO_STEPS
from app.model import NewItem, Scope
from tests.support.gateway import Talk

Message = dict[str, Any]
TRACK: Message = {"userId": "ann", "event": "E"}


def judged(
    message: Any, rules: SegmentRules | None = None, **common: Any
) -> classify.ClassifiedMessage:
    call = request.parse_call("batch", orjson.dumps({"batch": [message], **common}))
    return classify.MessageClassifier(frozenset(Scope), rules or SegmentRules(), NO_STEPS).classify(
        call.messages[0], call.common
    )


def item(message: Message, rules: SegmentRules | None = None, **common: Any) -> NewItem:
    found = judged(message, rules, **common)
    assert isinstance(found, NewItem), found
    return found


def fields(message: Message, rules: SegmentRules | None = None, **common: Any) -> dict[str, Any]:
    """What Leanplum gets."""
    found: dict[str, Any] = orjson.loads(item(message, rules, **common).body)
    return found


def faults(message: Any) -> dict[str, str]:
    """What is wrong: code by pointer."""
    error = judged(message)
    assert isinstance(error, Invalid), error
    return {one.pointer: one.code for one in error.faults}


def basic(key: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{key}:".encode()).decode()}


def post(
    talk: Talk, path: str, body: Any, *, key: str | None = "", **options: Any
) -> httpx.Response:
    """A call as libraries make it: the key as Basic's user name; None sends none."""
    headers = {"Content-Type": "application/json"} | ({} if key is None else basic(key or talk.key))
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    headers |= options.pop("headers", {})
    return talk.call(
        "POST", f"/segment/v1/{path}", key=None, content=content, headers=headers, **options
    )
