"""HTTP/1.1 as bytes, only as far as a load generator needs it: requests, and sized responses."""

import re
from typing import NamedTuple

_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_ACCEPTED = re.compile(rb'"accepted"\s*:\s*(\d+)')
_HEAD_END = b"\r\n\r\n"


class Answer(NamedTuple):
    """A response; status 0 is a connection that was lost before the response came."""

    status: int
    body: bytes

    @property
    def ok(self) -> bool:
        """True for a 2xx status."""
        return 200 <= self.status < 300


LOST = Answer(0, b"")


def request(port: int, path: str, key: str, body: bytes) -> bytes:
    """Return a whole POST request."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def read_answer(received: bytes | bytearray) -> Answer | None:
    """Return the response once it is complete; `LOST` without a Content-Length to find its end."""
    end = received.find(_HEAD_END)
    if end < 0:
        return None
    length = _LENGTH.search(received, 0, end)
    if length is None:
        return LOST
    start = end + len(_HEAD_END)
    stop = start + int(length[1])
    if len(received) < stop:
        return None
    return Answer(int(received[9:12]), bytes(received[start:stop]))


def acknowledged(answer: Answer, size: int) -> int:
    """Return how many items of a request of `size` the response acknowledges."""
    if not answer.ok:
        return 0
    if size == 1:
        return 1
    accepted = _ACCEPTED.search(answer.body)
    return int(accepted[1]) if accepted else 0
