"""Requests of Segment's protocol, parsed into calls. Pure.

A body is JSON whatever its media type: browsers send it as text/plain.
"""

from dataclasses import dataclass
from typing import Any

from app.compat.body_formats import (
    Fits,
    anything_fits,
    mark,
    parse_json,
    refuse_beyond,
    resolve_marks,
)
from app.errors import Malformed

TYPES = ("track", "identify", "page", "screen", "group", "alias")
BATCH = "batch"
# analytics.js calls the paths of one letter; `import` is the old name of a batch.
PATHS = {
    f"/segment/v1/{name}{slash}": kind
    for kind in (*TYPES, BATCH)
    for slash in ("", "/")
    for name in (kind, kind[0], *(("import",) if kind == BATCH else ()))
}
COMMON = ("context", "integrations", "sentAt")  # fields that a batch may have for all its messages
VERBATIM_FIELDS = ("userId", "anonymousId", "previousId", "messageId")  # their text never changes
Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SegmentCall:
    """A call of Segment's protocol: its messages, their common fields and the key in the body.

    Messages of a batch may be any JSON.
    """

    messages: list[Any]
    common: Message
    key: str
    batch: bool


def parse_call(kind: str, body: bytes, fits: Fits = anything_fits) -> SegmentCall:
    """Return the call of a body; `kind` is one of TYPES, or BATCH.

    Raises Malformed and TooLarge, and BeyondLimit for more messages than fit.
    """
    document = parse_json(body)
    if not isinstance(document, dict):
        raise Malformed("The body must be a JSON object.")
    key = document.get("writeKey")
    if not isinstance(key, str):
        key = ""
    if kind != BATCH:
        message = _resolve_message(mark({**document, "type": kind}))
        return SegmentCall([message], {}, key, batch=False)
    messages = document.get(BATCH)
    if not isinstance(messages, list):
        raise Malformed('The body must be {"batch": [...]}, with a list of messages.')
    refuse_beyond(fits, len(messages))
    common = mark({name: document[name] for name in COMMON if name in document})
    return SegmentCall(
        list(map(_resolve_message, messages)), _resolve_message(common), key, batch=True
    )


def _resolve_message(message: Any) -> Any:
    return resolve_marks(message, VERBATIM_FIELDS)
