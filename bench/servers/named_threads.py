"""The gateway with threads that the system knows by name.

`python -m bench.servers.named_threads …`; the arguments of the gateway follow. Python itself names
its threads from 3.14 on only.
"""

import threading
from pathlib import Path

from app.cli.main import main

EVENT_LOOP = "event loop"
_run = threading.Thread.run


def _tell_name(name: str) -> None:
    # The system keeps fifteen bytes.
    Path("/proc/thread-self/comm").write_text(name[:15])


def _run_named(thread: threading.Thread) -> None:
    _tell_name(thread.name)
    _run(thread)


threading.Thread.run = _run_named  # type: ignore[method-assign,assignment]

if __name__ == "__main__":
    _tell_name(EVENT_LOOP)
    main()
