"""Large bodies of who knows whom: the key is found before anything is parsed, and others are not
kept waiting.
"""

import gzip
import http.client
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

import orjson
import pytest

from app.callers import key_format
from tests.support.processes import APP_ID, Process, serving

SIZE = 24 * 1024 * 1024 - 1_000
JSON, FORM = "application/json", "application/x-www-form-urlencoded"
AT_ONCE = 8
PROCESSOR_SECONDS = 0.3  # of the server, for a call of 24 MB
MAX_WAIT = 2.0  # of an event meanwhile, where the machine has much else to do
TICKS = os.sysconf("SC_CLK_TCK")
Body = Callable[[str], tuple[bytes, dict[str, str]]]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    nobody = "http://127.0.0.1:9"
    folder = tmp_path_factory.mktemp("first")
    with serving(
        folder, nobody, GATEWAY_FAILED_AUTH_PER_MINUTE="100000", GATEWAY_LOG_LEVEL="error"
    ) as process:
        yield process


def as_json(key: str) -> tuple[bytes, dict[str, str]]:
    return b'{"clientKey":"%s","x":"%s"}' % (key.encode(), b"x" * (SIZE - 100)), {
        "Content-Type": JSON
    }


def with_the_key_last(key: str) -> tuple[bytes, dict[str, str]]:
    return b'{"data":[%s{}],"clientKey":"%s"}' % (b"{}," * (SIZE // 3 - 50), key.encode()), {
        "Content-Type": JSON
    }


def nested(key: str) -> tuple[bytes, dict[str, str]]:
    return b'{"clientKey":"%s","x":' % key.encode() + b"[" * (SIZE - 100), {"Content-Type": JSON}


def as_form(key: str) -> tuple[bytes, dict[str, str]]:
    return b"data=" + b"%41" * (SIZE // 3 - 50) + b"&clientKey=" + key.encode(), {
        "Content-Type": FORM
    }


def packed(key: str) -> tuple[bytes, dict[str, str]]:
    return gzip.compress(with_the_key_last(key)[0], 1), {
        "Content-Type": JSON,
        "Content-Encoding": "gzip",
    }


def garbage(key: str) -> tuple[bytes, dict[str, str]]:
    return os.urandom(1_000_000) * (SIZE // 1_000_000), {"Content-Type": "application/octet-stream"}


def full_of_keys(key: str) -> tuple[bytes, dict[str, str]]:
    return b"".join(b'"%s",' % (b"lpgw_%036d" % number) for number in range(SIZE // 44)), {
        "Content-Type": JSON
    }


def as_multipart(key: str) -> tuple[bytes, dict[str, str]]:
    part = b'--b\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
    body = (
        part % (b"f", b'; filename="f"', b"x" * (SIZE - 500))
        + part % (b"clientKey", b"", key.encode())
        + b"--b--\r\n"
    )
    return body, {"Content-Type": "multipart/form-data; boundary=b"}


FORMS: list[Body] = [
    as_json, with_the_key_last, nested, as_form, packed, garbage, full_of_keys, as_multipart,
]  # fmt: skip


def post(gateway: Process, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    with closing(http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)) as connection:
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()


def processor_seconds(gateway: Process) -> float:
    """What the server has used so far."""
    fields = Path(f"/proc/{gateway.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


@contextmanager
def steady(gateway: Process) -> Iterator[list[float]]:
    """How long each event of a well-behaved caller takes meanwhile."""
    waits, ended = list[float](), threading.Event()
    headers = {"Authorization": f"Bearer {gateway.key}", "Content-Type": JSON}

    def send() -> None:
        with closing(
            http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
        ) as connection:
            while not ended.is_set():
                began = time.monotonic()
                connection.request("POST", "/v1/events", b'{"userId":"good","event":"e"}', headers)
                answer = connection.getresponse()
                answer.read()
                assert answer.status == 202
                waits.append(time.monotonic() - began)
                time.sleep(0.005)

    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send)
        try:
            yield waits
        finally:
            ended.set()
            sending.result()


@pytest.mark.parametrize("form", FORMS)
def test_a_large_body_without_a_known_key_is_refused_and_costs_next_to_nothing(
    gateway: Process, form: Body
) -> None:
    body, headers = form(key_format.make())
    before = processor_seconds(gateway)
    with steady(gateway) as waits, ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(lambda _: post(gateway, "/api", body, headers), range(AT_ONCE)))
    used = processor_seconds(gateway) - before - 0.005 * len(waits)  # an event's own share
    assert {status for status, _ in answers} == {403}
    assert {len(orjson.loads(answer)["response"]) for _, answer in answers} == {1}
    assert used / AT_ONCE < PROCESSOR_SECONDS
    assert max(waits) < MAX_WAIT


@pytest.mark.parametrize("form", [as_json, with_the_key_last, nested, packed])
def test_segment_s_libraries_keys_in_bodies_are_found_first_too(
    gateway: Process, form: Body
) -> None:
    body, headers = form(key_format.make())
    if form is not packed:
        body = body[:4_000_000]
    before = processor_seconds(gateway)
    status, _ = post(gateway, "/segment/v1/batch", body, headers)
    assert status in {401, 413}
    assert processor_seconds(gateway) - before < PROCESSOR_SECONDS


def batch(key: str, entries: int = 10_000, members: int = 26) -> dict[str, object]:
    params = {f"name{number}": f"value{number}" for number in range(members)}
    data = [
        {"action": "track", "userId": f"u{at % 50}", "event": "e", "params": params}
        for at in range(entries)
    ]
    return {"action": "multi", "data": data, "appId": APP_ID, "clientKey": key}


def test_a_large_batch_with_the_key_behind_it_is_taken_in_every_form(gateway: Process) -> None:
    entries = 2_500
    call = batch(gateway.key, entries)
    text = orjson.dumps(call)
    assert text.rindex(b"clientKey") > len(text) - 100
    fields = {
        "action": "multi",
        "data": orjson.dumps(call["data"]).decode(),
        "appId": APP_ID,
        "clientKey": gateway.key,
    }
    form = "&".join(f"{name}={quote(value)}" for name, value in fields.items()).encode()
    part = '--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
    multipart = "".join(part % field for field in fields.items()) + "--b--\r\n"
    for body, headers in (
        (text, {"Content-Type": JSON}),
        (gzip.compress(text, 1), {"Content-Encoding": "gzip"}),
        (form, {"Content-Type": FORM}),
        (multipart.encode(), {"Content-Type": "multipart/form-data; boundary=b"}),
    ):
        status, answer = post(gateway, "/api", body, headers)
        assert (status, len(orjson.loads(answer)["response"])) == (200, entries)


def test_a_batch_of_ten_thousand_actions_of_thirty_fields_is_taken(gateway: Process) -> None:
    status, answer = post(gateway, "/api", orjson.dumps(batch(gateway.key)), {"Content-Type": JSON})
    assert (status, len(orjson.loads(answer)["response"])) == (200, 10_000)


@pytest.mark.parametrize("underscore", ["_", "%5F", "%5f"])
def test_a_key_in_a_form_may_be_escaped(gateway: Process, underscore: str) -> None:
    key = gateway.key.replace("_", underscore)
    body = f"action=track&userId=u&event=e&appId={APP_ID}&params={quote('x' * 200_000)}&clientKey={key}".encode()
    assert post(gateway, "/api", body, {"Content-Type": FORM})[0] in {200, 400}


def test_a_key_in_json_may_be_escaped(gateway: Process) -> None:
    text = orjson.dumps(batch(gateway.key, entries=1_000)).replace(b"lpgw_", b"lpgw\\u005f")
    assert post(gateway, "/api", text, {"Content-Type": JSON})[0] == 200


def test_a_known_key_elsewhere_does_not_let_another_s_call_in(gateway: Process) -> None:
    for other in (key_format.make(), "nonsense"):
        call = batch(other, entries=2_000) | {"userId": gateway.key}
        assert post(gateway, "/api", orjson.dumps(call), {"Content-Type": JSON})[0] == 403


@pytest.mark.parametrize("kind", ["members", "members of a text", "lists", "not plain", "escapes"])
def test_a_hostile_body_with_a_known_key_is_refused_cheaply(gateway: Process, kind: str) -> None:
    many = b",".join(b'"k%d":1' % number for number in range(400_000))
    values = {
        "members": b"{%s}" % many,
        "members of a text": orjson.dumps(f"{{{many.decode()}}}"),
        "lists": b"[%s[]]" % (b"[]," * 240_000),
        "not plain": b'{%s,"n":NaN}'
        % b",".join(b'"k%040d":1' % number for number in range(400_000)),
    }
    start = b'{"appId":"%s","clientKey":"%s","action":"track","userId":"u","event":"e","params":'
    body, headers = (
        start % (APP_ID.encode(), gateway.key.encode()) + values.get(kind, b"") + b"}",
        {"Content-Type": JSON},
    )
    if kind == "escapes":
        fields = f"appId={APP_ID}&clientKey={gateway.key}&action=track&userId=u&event=e&params="
        body, headers = fields.encode() + b"%2C" * (SIZE // 3 - 100), {"Content-Type": FORM}
    before = processor_seconds(gateway)
    with steady(gateway) as waits:
        status, _ = post(gateway, "/api", body, headers)
    used = processor_seconds(gateway) - before - 0.005 * len(waits)
    assert status == (200 if kind == "escapes" else 413)
    assert used < 1.5
