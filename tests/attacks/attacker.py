"""Runs one attack: `python -m tests.attacks.attacker NAME SECONDS CONNECTIONS`, with the target as
JSON on stdin.

It says `ready` when its bodies are made, begins when a line comes, and prints what became of its
requests as JSON. Its priority is low: it takes what the gateway and its callers leave of the
processors.
"""

import json
import os
import sys
import threading
import time
from collections import Counter

from tests.attacks.rows import REQUESTS, Step
from tests.attacks.sending import Target

NICENESS = 10


def repeat(step: Step, pause: float, until: float, found: list[str]) -> None:
    """Make requests, at the soonest `pause` seconds after the begin of the last one."""
    while (began := time.monotonic()) < until:
        found.append(step())
        time.sleep(max(0.0, min(began + pause, until) - time.monotonic()))


def main(name: str, seconds: float, connections: int) -> None:
    os.nice(NICENESS)
    attack = REQUESTS[name]
    target = Target(**json.loads(sys.stdin.readline()))
    steps = [attack.make(target) for _ in range(connections)]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    found = list[str]()
    pause, until = attack.connections / attack.rate, time.monotonic() + seconds
    threads = [
        threading.Thread(target=repeat, args=(step, pause, until, found), daemon=True)
        for step in steps
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.stdout.write(json.dumps(Counter(found)))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
