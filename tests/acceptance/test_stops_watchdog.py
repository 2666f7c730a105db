"""The watchdog ends a process whatever hangs in it."""

import subprocess
import sys
import time

import pytest

from tests.support.processes import ROOT

ARMED = """
import time, threading, re
from app.server.lifecycle import Watchdog
watchdog = Watchdog()
watchdog.arm_for(0, 0.1)
"""
LOOP = "while True: pass"
THREAD = """
watchdog.close()
threading.Thread(target=time.sleep, args=(60,)).start()  # the interpreter waits for it
"""
HOLDS_THE_INTERPRETER = "re.match('(a+)+$', 'a' * 60 + 'b')"


@pytest.mark.parametrize(
    ("hangs", "code"),
    [(LOOP, 1), (THREAD, 0), (HOLDS_THE_INTERPRETER, -14), ("time.sleep(0)", 0)],
    ids=["loop", "thread after all is closed", "no thread gets its turn", "nothing"],
)
def test_a_process_ends_in_time(hangs: str, code: int) -> None:
    started = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-c", ARMED + hangs],
        cwd=ROOT,
        timeout=60,
        check=False,
        capture_output=True,
    )
    assert ended.returncode == code, ended.stderr
    assert time.monotonic() - started < 30
