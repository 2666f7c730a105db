"""The well-behaved caller: `python -m tests.attacks.caller PORT`, with its key as a line on stdin,
until stdin ends.

It sends 50 events a second on one connection, each after the answer to the last. An event's time
counts from the moment it was due, so that a gateway that stalls can't hide the events that would
have come meanwhile. Prints one `[due, seconds since then, seconds since it was sent, outcome]` for
each event, by the clock that all processes share (CLOCK_MONOTONIC), after a line `ready` once the
first was answered.
"""

import json
import sys
import threading
import time

from tests.attacks.sending import Client

PER_SECOND = 50


def wait_for_the_end(ended: threading.Event) -> None:
    sys.stdin.read()
    ended.set()


def main(port: int, key: str) -> None:
    ended = threading.Event()
    threading.Thread(target=wait_for_the_end, args=(ended,), daemon=True).start()
    client, found = Client(port), list[tuple[float, float, float, str]]()
    body = b'{"userId":"good","event":"Purchase","value":9.99,"params":{"sku":"A-1"}}'
    due = time.monotonic()
    while not ended.wait(max(0.0, due - time.monotonic())):
        sent = time.monotonic()
        outcome = client.ask(
            "POST", "/v1/events", (body, {"Content-Type": "application/json"}), key=key
        )
        answered = time.monotonic()
        if not found:
            sys.stdout.write("ready\n")
            sys.stdout.flush()
        found.append((due, answered - due, answered - sent, outcome))
        due += 1 / PER_SECOND
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.stdin.readline().strip())
