"""One line of the log, with the field names of the Elastic Common Schema (ECS).

Events are logged with short names. A name that ECS has no field for gets the prefix `gateway.`.
"""

import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import orjson

from app import __version__
from app.clock import instant
from app.telemetry.log_events import ACCESS, DATASET, DATASETS, MESSAGES

ECS_VERSION = "8.17.0"
SERVICE = "leanplum-gateway"
OWN = "gateway."


class _Names(dict[str, str]):
    """The names of fields in a line, by those in the code."""

    def __missing__(self, name: str) -> str:
        full_name = self[name] = OWN + name
        return full_name


NAMES = _Names(
    address="client.ip",
    at="error.stack_trace",
    duration="event.duration",
    exit_code="process.exit_code",
    host="server.address",
    kind="error.type",
    logger="log.logger",
    method="http.request.method",
    path="file.path",
    port="server.port",
    reason="error.message",
    request_id="http.request.id",
    route="url.path",
    status="http.response.status_code",
    trace_id="trace.id",
    url="url.full",
)


class LogLine(NamedTuple):
    """One line before it is rendered; `time` is in milliseconds since the epoch."""

    level: str
    time: int
    event: str
    fields: Mapping[str, Any]

    def render(self) -> bytes:
        """Render the line as a JSON object: time, level, message, then everything else."""
        fields = dict(self.fields)
        message = orjson.dumps(fields.pop("message", None) or sentence(self.event, fields))
        named = {NAMES[name]: value for name, value in fields.items() if value is not None}
        rest = orjson.dumps(named, default=str)[1:]
        start = b'{"@timestamp":"%b","log.level":"%b","message":%b,%b' % (
            instant(self.time).encode(),
            self.level.encode(),
            message,
            _constant_fields(self.event),
        )
        return start + (rest if rest == b"}" else b"," + rest)


@lru_cache(maxsize=256)
def _constant_fields(event: str) -> bytes:
    """Return the fields that all lines of an event have, as the inside of a JSON object."""
    return orjson.dumps(
        {
            "event.action": event,
            "event.dataset": DATASETS.get(event, DATASET),
            "service.name": SERVICE,
            "service.version": __version__,
            "process.pid": os.getpid(),
            "ecs.version": ECS_VERSION,
        }
    )[1:-1]


def sentence(event: str, fields: Mapping[str, Any]) -> str:
    """Return the message of a line: what happened, and the reason if there is one."""
    if event == ACCESS:
        milliseconds = fields["duration"] / 1_000_000
        return f"{fields['method']} {fields['route']} {fields['status']} in {milliseconds:.1f} ms"
    message = MESSAGES.get(event, event)
    reason = fields.get("reason")
    return f"{message}: {reason}" if isinstance(reason, str) and reason else message
