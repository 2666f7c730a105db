"""From a request to a call of Segment's protocol. Pure. Judged by content: browsers send JSON as
text/plain.
"""

from dataclasses import dataclass
from typing import Any

from app.compat.json_values import Fits, anything_fits, marked, parsed, refuse_beyond, settled
from app.errors import Malformed

TYPES = ("track", "identify", "page", "screen", "group", "alias")
BATCH = "batch"
# analytics.js calls the letters; import is the old name of a batch.
PATHS = {
    f"/segment/v1/{name}{slash}": kind
    for kind in (*TYPES, BATCH)
    for slash in ("", "/")
    for name in (kind, kind[0], *(("import",) if kind == BATCH else ()))
}
COMMON = ("context", "integrations", "sentAt")  # what a batch may say for all its messages
AS_SENT = ("userId", "anonymousId", "previousId", "messageId")  # never mended
Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """One call: its messages, of which those of a batch may be anything; what they share; the key
    in the body.
    """

    messages: list[Any]
    common: Message
    key: str
    batch: bool


def call(kind: str, body: bytes, fits: Fits = anything_fits) -> Call:
    """The call that a body makes; `kind` is one of TYPES, or BATCH. Raises Malformed; BeyondLimit
    where it has more messages than fit.
    """
    found = parsed(body)
    if not isinstance(found, dict):
        raise Malformed("The body must be a JSON object.")
    key = found.get("writeKey")
    key = key if isinstance(key, str) else ""
    if kind != BATCH:
        return Call([_settled(marked({**found, "type": kind}))], {}, key, batch=False)
    messages = found.get(BATCH)
    if not isinstance(messages, list):
        raise Malformed('The body must be {"batch": [...]}, with a list of messages.')
    refuse_beyond(fits, len(messages))
    common = marked({name: found[name] for name in COMMON if name in found})
    return Call(list(map(_settled, messages)), _settled(common), key, batch=True)


def _settled(found: Any) -> Any:
    return settled(found, AS_SENT)
