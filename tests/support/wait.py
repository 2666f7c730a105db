"""Waiting for what something else brings about, and ports to wait at."""

import asyncio
import socket
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
WAIT_SECONDS = 60.0  # a busy machine may stand still for ten


def until(true: Callable[[], T | None], seconds: float = WAIT_SECONDS, *, pause: float = 0.01) -> T:
    """Call `true` every `pause` seconds until it returns something true, and return that."""
    deadline = time.monotonic() + seconds
    while not (result := true()):
        assert time.monotonic() < deadline, f"it did not come true in {seconds} s"
        time.sleep(pause)
    return result


async def until_async(
    true: Callable[[], T | None], seconds: float = WAIT_SECONDS, *, pause: float = 0.01
) -> T:
    """Do what `until` does, and let the event loop run meanwhile."""
    deadline = time.monotonic() + seconds
    while not (result := true()):
        assert time.monotonic() < deadline, f"it did not come true in {seconds} s"
        await asyncio.sleep(pause)
    return result


def free_port() -> int:
    """Return a port on the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
