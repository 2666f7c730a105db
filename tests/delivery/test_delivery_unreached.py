"""A call that never reached Leanplum is no call that it may have done: nothing becomes `unknown` by
it.
"""

import asyncio

import pytest

from app.delivery.verdicts import RetryPolicy
from app.leanplum.client import LeanplumClient
from tests.support.unreachable import PLACES

from .harness import Delivering

HOLD = RetryPolicy(window=60.0, least=0.02, most=0.04, held=0.05, not_twice=frozenset({"track"}))


@pytest.mark.parametrize("place", PLACES)
def test_what_finds_no_connection_is_sent_again_although_nothing_may_be_sent_twice(
    database: str, place: str
) -> None:
    async def run(url: str) -> None:
        async with LeanplumClient(timeout=0.4, connections=16) as client:
            at = Delivering(database, client, url.removesuffix("/api"), {"policy": HOLD})
            try:
                await at.accept("ann", 0, 1)
                await at.accept("bob", 0)
                for _ in range(2):
                    await at.step()
                    await asyncio.sleep(0.05)
                found = {*await at.told("ann", 2), *await at.told("bob", 1)}
                assert {status for status, _ in found} == {"retrying"}, found
            finally:
                await at.deliverer.leave()
                await at.writer.stop()
                at.engine.dispose()

    with PLACES[place]() as url:
        asyncio.run(run(url))
