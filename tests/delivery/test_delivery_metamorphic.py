"""The same items, however they are posted, give the same calls for each user."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.database.engine import connect

from .harness import Delivering, Leanplum, deliver

EVENTS = st.lists(st.sampled_from(["ann", "bob", "cid"]), min_size=1, max_size=24)
CUTS = st.lists(st.integers(1, 6), min_size=1, max_size=24)


def parts(users: Sequence[str], sizes: Sequence[int]) -> list[list[tuple[str, int]]]:
    """Numbered events, cut into batches of these sizes, and what is left."""
    numbered = [(user, value) for value, user in enumerate(users)]
    found = []
    for size in sizes:
        found.append(numbered[:size])
        numbered = numbered[size:]
    return [part for part in [*found, numbered] if part]


def arrived(
    leanplum: Leanplum, database: str, batches: list[list[tuple[str, int]]], restart_at: int
) -> dict[str, Any]:
    """What Leanplum saw of each user: action, name, value, in order. The gateway is restarted
    before one batch, with what it has taken still undelivered.
    """

    async def accept(at: Delivering, some: list[list[tuple[str, int]]]) -> None:
        for batch in some:
            await at.accept_mixed(batch)

    async def first(at: Delivering) -> None:
        await accept(at, batches[:restart_at])

    async def second(at: Delivering) -> None:
        await accept(at, batches[restart_at:])
        await at.finish()

    if restart_at:
        deliver(database, leanplum, first)
    deliver(database, leanplum, second)
    sent = [one for call in leanplum.calls() for one in call["args"]["data"]]
    users = {one["userId"] for one in sent}
    return {
        user: [(one["action"], one["event"], one["value"]) for one in sent if one["userId"] == user]
        for user in users
    }


@pytest.fixture
def fresh(tmp_path: Path) -> Any:
    """Makes a database for each example."""
    numbers = iter(range(10**6))

    def made() -> str:
        url = f"sqlite:///{tmp_path}/{next(numbers)}.db"
        connect(url).dispose()
        return url

    return made


@pytest.mark.slow
def test_singly_in_any_batches_or_over_a_restart_each_user_gets_the_same_calls(
    leanplum: Leanplum, fresh: Any
) -> None:
    @settings(
        max_examples=20,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(users=EVENTS, sizes=CUTS, restart=st.integers(0, 5))
    def holds(users: list[str], sizes: list[int], restart: int) -> None:
        expected = {
            user: [("track", "E", value) for value, one in enumerate(users) if one == user]
            for user in set(users)
        }
        singly, batched = parts(users, [1] * len(users)), parts(users, sizes)
        for batches, restart_at in (
            (singly, 0),
            (batched, 0),
            (batched, min(restart, len(batched) - 1)),
        ):
            leanplum.reset()
            assert arrived(leanplum, fresh(), batches, restart_at) == expected

    holds()
