"""The attacks that requests make. Rates are bounded: the attacker shares the machine's cores with
the gateway.
"""

import itertools
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from tests.attacks import bodies
from tests.attacks.bodies import Body
from tests.attacks.sending import Client, Drip, Target, until_the_answer

Step = Callable[[], str]  # makes one request, and returns what became of it
MEGABYTE = b"x" * 1_000_000
REFUSED = frozenset({"401", "403", "413", "429", "503"})
UNKNOWN_ACTIONS = (
    "DeleteUser",
    "deleteUser%20",
    "deleteUser ",
    "Multi",
    "SetVars",
    "x" * 3_000_000,
)


@dataclass(frozen=True)
class Attack:
    """`rate`: requests a second of all connections together, at most. `answers`: what may become of
    each.
    """

    name: str
    what: str
    connections: int
    rate: float
    make: Callable[[Target], Step]  # called once for each connection
    answers: frozenset[str]


def _in_turn(steps: Iterable[Step]) -> Step:
    turn = itertools.cycle(steps)
    return lambda: next(turn)()


def _posts(target: Target, path: str, sent: Iterable[Body], key: str | None = None) -> Step:
    """Post each body in turn on one connection."""
    client = Client(target.port)
    return _in_turn([partial(client.ask, "POST", path, body, key=key) for body in sent])


def _unknown_key(target: Target) -> Step:
    key = target.unknown
    return _posts(
        target, "/api", [bodies.with_the_key_last(key), bodies.as_form(key), bodies.nested(key)]
    )


def _packed_without_key(target: Target) -> Step:
    return _posts(target, "/api", [bodies.packed_call()])


def _packed_write_key(target: Target) -> Step:
    """Without a key, and with an unknown one at the end; each as large as may be, and larger."""
    sent = [
        bodies.packed_call(key, name="writeKey", size=size)
        for size in (bodies.LIMIT, bodies.SDK_LIMIT)
        for key in ("", target.unknown)
    ]
    return _posts(target, "/segment/v1/batch", sent)


def _packed_with_key(target: Target) -> Step:
    """With a phone's key at the start or at the end, and in the query."""
    client = Client(target.port)
    calls = [("/api", bodies.packed_call(target.sdk, last=last)) for last in (False, True)]
    calls.append((f"/api?clientKey={target.sdk}", bodies.packed_call()))
    return _in_turn([partial(client.ask, "POST", path, body) for path, body in calls])


def _bombs_with_key(target: Target) -> Step:
    client, body = Client(target.port), bodies.packed(1_000_000_000)
    sdk = f"/api?clientKey={target.sdk}&appId={bodies.APP_ID}&action=multi"
    return _in_turn(
        [
            partial(client.ask, "POST", "/v1/batch", body, key=target.writer),
            partial(client.ask, "POST", sdk, body),
        ]
    )


def _early(target: Target) -> Step:
    """Each is answered before its 16 MB are there."""
    calls = (
        ("/v1/events", bodies.JSON, target.unknown),
        ("/v1/events", bodies.JSON, target.writer),
        ("/v1/events", "text/plain", target.writer),
        ("/v1/nothing", bodies.JSON, target.writer),
    )
    heads = [
        f"POST {path} HTTP/1.1\r\nHost: gateway\r\nContent-Type: {kind}\r\nAuthorization: Bearer {key}\r\n"
        "Content-Length: 16000000\r\nConnection: close\r\n\r\n".encode()
        for path, kind, key in calls
    ]
    return _in_turn([partial(until_the_answer, target.port, head, MEGABYTE, 16) for head in heads])


def _heads(target: Target) -> Step:
    return Drip(target.port, b"GET /livez HTTP/1.1\r\nHost: gateway\r\nX-Header: ").step


def _bodies(target: Target) -> Step:
    head = "POST /api HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\nContent-Length: 900000\r\n\r\n"
    return Drip(target.port, head.encode()).step


def _slow_texts(target: Target) -> Step:
    client = Client(target.port)
    names = {"c" * 35 + "!": 1}
    sdk = [
        bodies.sdk_call(target.sdk, action="track", event="E", params={"note": text, **names})
        for text in bodies.SLOW_TEXTS
    ]
    rest = [bodies.event(text) for text in bodies.SLOW_TEXTS]
    return _in_turn(
        [
            *(partial(client.ask, "POST", "/api", body) for body in sdk),
            *(partial(client.ask, "POST", "/v1/events", body, key=target.writer) for body in rest),
        ]
    )


def _hostile(target: Target) -> Step:
    return _posts(target, "/api", bodies.hostile(target.sdk))


def _large_batches(target: Target) -> Step:
    """Of 10,000 entries each: refused one by one, or taken."""
    return _posts(
        target, "/api", [bodies.sdk_batch(target.sdk, 10_000, event=event) for event in (None, "E")]
    )


def _nowhere(target: Target) -> Step:
    client = Client(target.port)
    calls = (
        ("GET", "/v1/nothing"),
        ("DELETE", "/v1/audit"),
        ("POST", "/livez"),
        ("GET", "/v1/receipts/a/b"),
    )
    steps = [partial(client.ask, method, path, key=target.sdk) for method, path in calls]
    leaks = [
        partial(client.ask, "GET", f"/v1/{place}{target.sdk}")
        for place in ("receipts/", "messages?key=")
    ]
    return _in_turn([*steps, *leaks])


def _empty_bucket(target: Target) -> Step:
    return _posts(target, "/v1/batch", [bodies.rest_batch(1_000)], key=target.poor)


def _mixed(sent: Iterable[tuple[str, Body]], target: Target) -> Step:
    client = Client(target.port)
    return _in_turn([partial(client.ask, "POST", path, body) for path, body in sent])


def _beyond_the_rest(target: Target) -> Step:
    """Batches that a bucket would hold and never has room for, in each form."""
    sdk, segment = bodies.sdk_batch(target.half, 1_000), bodies.segment_batch(target.half, 1_000)
    forms = (sdk, bodies.as_text(sdk), bodies.as_fields(sdk), bodies.gzipped(sdk))
    calls = [("/api", form) for form in forms]
    return _mixed(
        [*calls, ("/segment/v1/batch", segment), ("/segment/v1/batch", bodies.gzipped(segment))],
        target,
    )


def _debts(target: Target) -> Step:
    """Batches that are larger than a bucket: the first passes, and the bucket is in debt."""
    sdk, segment = bodies.sdk_batch(target.poor, 1_000), bodies.segment_batch(target.poor, 1_000)
    return _mixed([("/api", sdk), ("/segment/v1/batch", segment)], target)


def _unknown_actions(target: Target) -> Step:
    sent = [bodies.sdk_call(target.sdk, action=action) for action in UNKNOWN_ACTIONS]
    entries = [{"action": action[:1_000], "userId": "u"} for action in UNKNOWN_ACTIONS] * 50
    return _posts(
        target, "/api", [*sent, bodies.sdk_call(target.sdk, action="multi", data=entries)]
    )


def _keys(target: Target) -> Step:
    """Make keys, and change each three times."""
    client = Client(target.port)
    number = itertools.count()

    def call(method: str, path: str, fields: dict[str, object]) -> str:
        return client.ask(
            method,
            path,
            (json.dumps(fields).encode(), {"Content-Type": bodies.JSON}),
            key=target.manager,
        )

    def make() -> str:
        return call(
            "POST", "/v1/keys", {"name": f"k{next(number)}", "scopes": ["sdk"], "apps": None}
        )

    def change() -> str:
        return call("PATCH", f"/v1/keys/{target.changed}", {"name": f"n{next(number)}"})

    return _in_turn([make, change, change, change])


WITHOUT_A_KEY = (
    Attack("unknown-key", "24 MB with an unknown key, JSON, form and nested", 8, 8, _unknown_key, REFUSED),
    Attack("packed-without-key", "gzip of 23 kB that is 24 MB, without a key", 60, 120, _packed_without_key, REFUSED),
    Attack(
        "packed-write-key", "the same at `/segment/v1/batch`, without a key or with an unknown `writeKey`", 60, 120,
        _packed_write_key, REFUSED,
    ),
    Attack(
        "early-answers", "16 MB that are answered 401, 404, 413 and 415 at their start", 8, 32, _early,
        frozenset({"401", "404", "413", "415", "429"}),
    ),
    Attack("slow-heads", "200 connections that drip a head", 1, 1, _heads, frozenset({"open"})),
    Attack("slow-bodies", "200 connections that drip a body", 1, 1, _bodies, frozenset({"open"})),
)  # fmt: skip
WITH_A_PHONES_KEY = (
    Attack("slow-texts", "texts that are slow for an e-mail rule", 2, 40, _slow_texts, frozenset({"200", "202"})),
    Attack(
        "hostile-bodies", "very many members, lists, escapes, digits", 2, 2, _hostile,
        frozenset({"200", "400", "413"}),
    ),
    Attack(
        "packed-with-key", "gzip of 23 kB that is 24 MB, with a phone's key", 60, 120, _packed_with_key,
        frozenset({"200", "400", "413", "429", "503"}),
    ),
    Attack("bombs", "gzip of 1 MB that is 1 GB", 4, 20, _bombs_with_key, frozenset({"413"})),
    Attack(
        "large-batches", "batches of 10,000 entries, refused and taken", 1, 1, _large_batches,
        frozenset({"200", "429"}),
    ),
    Attack(
        "nowhere", "404, 405 and keys in addresses", 8, 400, _nowhere, frozenset({"400", "404", "405", "429"}),
    ),
    Attack("empty-bucket", "batches of 1,000 items beyond the rate", 16, 160, _empty_bucket, frozenset({"202", "429"})),
    Attack(
        "beyond-the-rest", "`/api` and Segment batches of 1,000 beyond what a bucket has", 16, 160, _beyond_the_rest,
        frozenset({"200", "429"}),
    ),
    Attack(
        "debts", "`/api` and Segment batches of 1,000 larger than the bucket", 16, 160, _debts,
        frozenset({"200", "429"}),
    ),
    Attack(
        "unknown-actions", "unknown actions at `/api`, of up to 3 MB", 4, 20, _unknown_actions,
        frozenset({"200", "400", "403", "413", "429", "503"}),
    ),
    Attack("keys", "keys made and changed, beside the ones that there are", 1, 40, _keys, frozenset({"200", "201"})),
)  # fmt: skip
REQUESTS = {attack.name: attack for attack in (*WITHOUT_A_KEY, *WITH_A_PHONES_KEY)}
