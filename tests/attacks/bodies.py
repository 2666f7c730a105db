"""What attackers send. Large bodies are made once for each process."""

import gzip
import json
import zlib
from functools import cache
from urllib.parse import urlencode

APP_ID = "app_sandbox"
JSON, FORM = "application/json", "application/x-www-form-urlencoded"
NDJSON = "application/x-ndjson"
SDK_LIMIT, LIMIT = 24 * 1024 * 1024, 5 * 1024 * 1024
Body = tuple[bytes, dict[str, str]]
SLOW_TEXTS = ("a" * 80_000 + " ", "a@" * 40_000, "a" * 35 + "!", ("a" * 35 + "@") * 2_000)


@cache
def with_the_key_last(key: str) -> Body:
    entries = b"{}," * (SDK_LIMIT // 3 - 100)
    return b'{"data":[%s{}],"clientKey":"%s"}' % (entries, key.encode()), {"Content-Type": JSON}


@cache
def as_form(key: str) -> Body:
    return b"data=" + b"%41" * (SDK_LIMIT // 3 - 100) + b"&clientKey=" + key.encode(), {
        "Content-Type": FORM
    }


@cache
def nested(key: str) -> Body:
    return b'{"clientKey":"%s","x":' % key.encode() + b"[" * (SDK_LIMIT - 200), {
        "Content-Type": JSON
    }


@cache
def packed(size: int, filler: bytes = b" ") -> Body:
    """A gzip of so many bytes, a thousandth as large."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    piece = filler * 65_536
    made = b"".join(packer.compress(piece) for _ in range(size // len(piece)))
    return made + packer.flush(), {"Content-Type": JSON, "Content-Encoding": "gzip"}


@cache
def packed_call(
    key: str = "", *, name: str = "clientKey", size: int = SDK_LIMIT, last: bool = True
) -> Body:
    """A gzip of 23 kB that is 24 MB of a call; without a key, or with one at its start or its
    end.
    """
    named = b'"%s":"%s"' % (name.encode(), key.encode()) if key else b'"action":"multi"'
    filler = b'"data":"' + b"a" * (size - 200) + b'"'
    text = b"{%s,%s}" % ((filler, named) if last else (named, filler))
    return gzip.compress(text, 9), {"Content-Type": JSON, "Content-Encoding": "gzip"}


def event(value: str) -> Body:
    return json.dumps({"userId": "u", "event": "E", "params": {"note": value}}).encode(), {
        "Content-Type": JSON
    }


def sdk_call(key: str, **arguments: object) -> Body:
    call = {"appId": APP_ID, "clientKey": key, "apiVersion": "1.0.6", "userId": "u", **arguments}
    return json.dumps(call).encode(), {"Content-Type": JSON}


@cache
def sdk_batch(key: str, entries: int, *, event: str | None = "E") -> Body:
    """A batch of so many entries with 26 parameters each; without an event, each is refused."""
    params = {f"name{number}": f"value{number}" for number in range(26)}
    named = {} if event is None else {"event": event}
    data = [
        {"action": "track", "userId": f"u{at % 50}", "params": params, **named}
        for at in range(entries)
    ]
    return sdk_call(key, action="multi", data=data)


def as_text(body: Body) -> Body:
    """The same call, whose `data` is JSON as text."""
    call = json.loads(body[0])
    return json.dumps({**call, "data": json.dumps(call["data"])}).encode(), {"Content-Type": JSON}


def as_fields(body: Body) -> Body:
    """The same call as a form."""
    call = json.loads(body[0])
    fields = {
        name: value if isinstance(value, str) else json.dumps(value) for name, value in call.items()
    }
    return urlencode(fields).encode(), {"Content-Type": FORM}


def gzipped(body: Body) -> Body:
    return gzip.compress(body[0]), {**body[1], "Content-Encoding": "gzip"}


@cache
def segment_batch(key: str, messages: int) -> Body:
    """A batch of so many messages with 26 properties each."""
    properties = {f"name{number}": f"value{number}" for number in range(26)}
    batch = [
        {"type": "track", "userId": f"u{at % 50}", "event": "E", "properties": properties}
        for at in range(messages)
    ]
    return json.dumps({"batch": batch, "writeKey": key}).encode(), {"Content-Type": JSON}


@cache
def rest_batch(items: int) -> Body:
    lines = [
        json.dumps({"action": "track", "userId": f"u{at}", "event": "E", "value": at})
        for at in range(items)
    ]
    return "\n".join(lines).encode(), {"Content-Type": NDJSON}


@cache
def hostile(key: str) -> tuple[Body, ...]:
    """Calls with a known key that are made to cost as much as they can."""
    many = b",".join(b'"k%d":1' % number for number in range(400_000))
    long_names = b",".join(b'"k%040d":1' % number for number in range(400_000))
    start = b'{"appId":"%s","clientKey":"%s","action":"track","userId":"u","event":"e","params":'
    start %= APP_ID.encode(), key.encode()
    values = (
        b"{%s}" % many,
        json.dumps(f"{{{many.decode()}}}").encode(),
        b"[%s[]]" % (b"[]," * 240_000),
        b'{%s,"n":NaN}' % long_names,
        b'"%s"' % (b"\\u0041" * 3_900_000),
        b"1" * 20_000_000,
    )
    fields = f"appId={APP_ID}&clientKey={key}&action=track&userId=u&event=e&params="
    form = fields.encode() + b"%2C" * (SDK_LIMIT // 3 - 100), {"Content-Type": FORM}
    return (*((start + value + b"}", {"Content-Type": JSON}) for value in values), form)
