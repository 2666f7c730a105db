"""Answers in the protocol's words. Pure.

Libraries look at the status alone: 2xx and they forget the messages; 429, 5xx, and they send them
again; any other, and they give them up. `rudder-sdk-python` takes an error without `code` and
`message` for one to try again.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from app.errors import Erased, Forbidden, GatewayError, Invalid, KeyNotConfigured
from app.http import problems

DONE = b'{"success": true}'
MAX_TOLD = 100
Refused = Mapping[int, GatewayError]  # by place in the batch


def status_of(error: GatewayError) -> int:
    """The HTTP status. What is invalid is "can't be read" here; what only an operator can mend is
    to be sent again.
    """
    if isinstance(error, Invalid):
        return 400
    if isinstance(error, KeyNotConfigured):
        return 503
    return problems.PROBLEMS[problems.SLUGS[type(error)]].status


def failure(error: GatewayError) -> dict[str, Any]:
    """Why a call, or a message, is not taken."""
    told: dict[str, Any] = {"code": problems.SLUGS[type(error)], "message": error.detail}
    if isinstance(error, Invalid):
        told["message"] = "; ".join(
            f"{one.pointer or 'the message'}: {one.detail}" for one in error.faults[:3]
        )
        told["errors"] = [one.document() for one in error.faults]
    return told


def codes(error: GatewayError) -> Iterator[str]:
    """What is wrong, in words for programs."""
    if isinstance(error, Invalid):
        yield from (one.code for one in error.faults)
    else:
        yield problems.SLUGS[type(error)]


def failed(error: GatewayError) -> bytes:
    """The body where nothing was taken."""
    return orjson.dumps({"success": False, **failure(error)})


def partly(messages: Sequence[Any], refused: Refused) -> bytes:
    """The body where some messages of a batch were refused, and the others, if any, are durable."""
    taken = len(messages) - len(refused)
    return orjson.dumps(
        {
            "success": False,
            "code": "partly-refused" if taken else "refused",
            "message": f"{len(refused)} of {len(messages)} messages were refused: see rejected. The others are taken.",
            "accepted": taken,
            "rejected": [
                {"index": index, **_own_id(messages[index]), **failure(refused[index])}
                for index in sorted(refused)[:MAX_TOLD]
            ],
        }
    )


def status_of_refused(refused: Refused) -> int:
    """The status where every message is refused: 403 only where all lack a scope, or are of users
    who were erased.
    """
    return 403 if all(isinstance(one, Forbidden | Erased) for one in refused.values()) else 400


def _own_id(message: Any) -> dict[str, Any]:
    found = message.get("messageId") if isinstance(message, dict) else None
    return {"messageId": found[:200]} if isinstance(found, str) else {}
