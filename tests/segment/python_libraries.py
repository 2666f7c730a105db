"""Messages with a PyPI library: python python_libraries.py NAME URL KEY BATCH < messages; prints
what went wrong.

A message is JSON, with the names of Segment's specification; `type` says which of the library's
methods is called.
"""

import json
import re
import sys
from datetime import datetime
from typing import Any

Message = dict[str, Any]


def arguments(message: Message) -> Message:
    """A message as a method's arguments."""
    found = {
        re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", name): one
        for name, one in message.items()
    }
    del found["type"]
    if "timestamp" in found:
        found["timestamp"] = datetime.fromisoformat(found["timestamp"])
    return found


def send(client: Any, messages: list[Message]) -> None:
    for message in messages:
        getattr(client, message["type"])(**arguments(message))
    client.flush()
    client.join()


def main(name: str, url: str, key: str, batch: str) -> None:
    wrong: list[str] = []
    options: dict[str, Any] = {
        "host": f"{url}/segment",
        "gzip": True,
        "upload_size": int(batch),
        "on_error": lambda error, messages: wrong.append(f"{type(error).__name__}: {error}"),
    }
    if name == "segment":
        from segment.analytics.client import Client as Segment  # type: ignore[import-untyped]

        client = Segment(key, **options)
    else:
        from rudderstack.analytics.client import Client as Rudder  # type: ignore[import-untyped]

        client = Rudder(key, **options)
    send(client, json.load(sys.stdin))
    json.dump(wrong, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
