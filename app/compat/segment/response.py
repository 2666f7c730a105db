"""Responses in the terms of Segment's protocol. Pure.

Libraries look at the status alone: after 2xx they forget the messages, after 429 and 5xx they send
them again, and after any other they give them up. `rudder-sdk-python` retries after an error
without `code` and `message`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from app.errors import Erased, Forbidden, GatewayError, Invalid, KeyNotConfigured
from app.http import problems
from app.http.problem_types import PROBLEMS

SUCCESS = b'{"success": true}'
MAX_REJECTED, MAX_FAULTS_IN_MESSAGE = 100, 3
RefusedMessages = Mapping[int, GatewayError]  # by place in the batch


def status_of(error: GatewayError) -> int:
    """Return the HTTP status of an error.

    Segment's libraries know 400 for invalid messages. A missing setting is 503, so that messages
    are sent again once the operator has added it.
    """
    if isinstance(error, Invalid):
        return 400
    if isinstance(error, KeyNotConfigured):
        return 503
    return PROBLEMS[problems.SLUGS[type(error)]].status


def render_error(error: GatewayError) -> dict[str, Any]:
    """Return the fields that describe why a call or a message is refused."""
    fields: dict[str, Any] = {"code": problems.SLUGS[type(error)], "message": error.detail}
    if isinstance(error, Invalid):
        fields["message"] = "; ".join(
            f"{fault.pointer or 'the message'}: {fault.detail}"
            for fault in error.faults[:MAX_FAULTS_IN_MESSAGE]
        )
        fields["errors"] = [fault.document() for fault in error.faults]
    return fields


def codes_of(error: GatewayError) -> Iterator[str]:
    """Yield the codes of an error: those of its faults, else that of its problem."""
    if isinstance(error, Invalid):
        yield from (fault.code for fault in error.faults)
    else:
        yield problems.SLUGS[type(error)]


def render_failure(error: GatewayError) -> bytes:
    """Return the body of a response to a call of which nothing was accepted."""
    return orjson.dumps({"success": False, **render_error(error)})


def render_partial(messages: Sequence[Any], refused: RefusedMessages) -> bytes:
    """Return the body for a batch with refused messages; any others are accepted durably."""
    accepted = len(messages) - len(refused)
    return orjson.dumps(
        {
            "success": False,
            "code": "partly-refused" if accepted else "refused",
            "message": (
                f"{len(refused)} of {len(messages)} messages were refused: see rejected. "
                "The others are taken."
            ),
            "accepted": accepted,
            "rejected": [
                {"index": index, **_message_id(messages[index]), **render_error(refused[index])}
                for index in sorted(refused)[:MAX_REJECTED]
            ],
        }
    )


def status_of_refused(refused: RefusedMessages) -> int:
    """Return the status of a batch of which every message is refused.

    It is 403 when all lack a scope or belong to erased users, 400 otherwise.
    """
    forbidden = all(isinstance(error, Forbidden | Erased) for error in refused.values())
    return 403 if forbidden else 400


def _message_id(message: Any) -> dict[str, Any]:
    message_id = message.get("messageId") if isinstance(message, dict) else None
    return {"messageId": message_id[:200]} if isinstance(message_id, str) else {}
