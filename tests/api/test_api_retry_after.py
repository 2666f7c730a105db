"""Through a real server: how long a caller who waits is told to stay away, when Leanplum says how
long.
"""

import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path

import pytest

from app.settings import Settings
from tests.support.simulator import delivering_to, simulated


@pytest.mark.parametrize("mode", ["429", "503"])
def test_leanplums_wish_is_passed_on_and_not_asked_again_before_its_time(
    settings: Callable[..., Settings], tmp_path: Path, mode: str
) -> None:
    with simulated() as leanplum, delivering_to(leanplum, settings, tmp_path / "g.db") as talk:
        for wish, least, most in [
            ("2.5", 3, 3),
            (formatdate(time.time() + 60, usegmt=True), 55, 61),
            ("soon", 5, 5),
        ]:
            leanplum.fault(mode=mode, retryAfter=wish, times=5)
            before = len(leanplum.calls())
            answer = talk.get("/v1/users/u1/variables")
            assert answer.status_code == 503
            assert least <= int(answer.headers["retry-after"]) <= most
            assert wish == "soon" or len(leanplum.calls()) == before + 1
            leanplum.mend()
