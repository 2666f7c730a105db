"""Dead letters in groups, and replays that go on in the background."""

import asyncio
from typing import Any

import pytest

from app.errors import RateLimited
from app.model import Settled, Status, Verdict
from app.outbox import dead_letter_groups, dead_letter_runs, dead_letters
from app.outbox.dead_letter_groups import NO_WORDS, reason_of
from app.outbox.dead_letter_runs import DeadLetterRuns, PutRun
from app.outbox.dead_letters import EVERY, DeadLetterFilter

from .harness import Opened, track, with_outbox

SEEN = dead_letter_groups.SCANNED


async def died(at: Opened, *reasons: str, app: str = "default") -> None:
    """Let one event for each reason end as a dead letter, of users u0, u1 …"""
    await at.accept(*(track(f"user{number}") for number, _ in enumerate(reasons)), app=app)
    waiting = await at.waiting(0, 10_000)
    assert await at.begin("t", waiting)
    verdicts: list[tuple[int, Verdict]] = [
        (item.seq, Settled(Status.REJECTED, {"success": False, "error": reason}))
        for item, reason in zip(waiting, reasons, strict=True)
    ]
    assert await at.outbox.settle("t", app, verdicts)


class Observer:
    """Counts the steps of a run; refuses from the step `refuses_at` on."""

    def __init__(self, refuses_at: int = 10**9) -> None:
        self.steps: list[int] = []
        self.confirmed = 0
        self.failures: list[Exception] = []
        self._refuses_at = refuses_at

    def record(self, count: int) -> tuple[int, str]:
        self.steps.append(count)
        return 1, '{"unmapped":{}}'

    def confirm(self) -> None:
        self.confirmed += 1
        if self.confirmed > self._refuses_at:
            raise RuntimeError("no more")

    def on_failure(self, error: Exception) -> None:
        self.failures.append(error)


def runs_of(at: Opened) -> DeadLetterRuns:
    return DeadLetterRuns(at.engine, at.writer, at.outbox.dead_letters, lambda: at.now)


async def run(
    at: Opened, observer: Observer, which: DeadLetterFilter = EVERY, **given: Any
) -> dead_letter_runs.DeadLetterRun:
    """Do a run to its end; return its state."""
    runs = runs_of(at)
    options: dict[str, Any] = {"kind": "replay", "dry_run": False, **given}
    run_id = await runs.begin(
        "default",
        which=which,
        observer=observer,
        key_id="key_1",
        choice={},
        patience=10.0,
        **options,
    )
    found = await runs.find(run_id)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (None, NO_WORDS),
        ("{}", NO_WORDS),
        ('{"error": "User ann-1 is unknown"}', "User … is unknown"),
        ('{"error": "HTTP 503"}', "HTTP 503"),
        ('{"error": "Bad time 1700000000.25"}', "Bad time …"),
        ('{"success": true, "warning": "Past event"}', "Past event"),
        ('{"error": "%s"}' % ("x" * 400), "x" * 300),
    ],
)
def test_a_reason_leaves_out_what_differs_from_item_to_item(said: str | None, reason: str) -> None:
    assert reason_of(said, "uann-1") == reason


def test_groups_are_by_reason_and_app_the_largest_first(database: str) -> None:
    async def body(at: Opened) -> None:
        await died(at, "Bad.", "User user1 is odd", "User user2 is odd")
        await died(at, "Bad.", app="other")
        found = await at.outbox.dead_letters.groups({"default", "other"})
        groups = [(group.app, group.reason, group.items) for group in found.groups]
        assert groups[0] == ("default", "User … is odd", 2)
        assert set(groups[1:]) == {("default", "Bad.", 1), ("other", "Bad.", 1)}
        assert (found.seen, found.truncated) == (4, False)
        assert len((await at.outbox.dead_letters.groups({"other"})).groups) == 1
        assert (await at.outbox.dead_letters.groups(())).groups == []

    with_outbox(database, body)


def test_only_the_newest_are_looked_at_and_the_rest_is_said_to_be_there(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letter_groups, "SCANNED", 3)
    monkeypatch.setattr(dead_letters, "SCANNED", 3)

    async def body(at: Opened) -> None:
        await died(at, "old", "Bad.", "Bad.", "Bad.")
        service = at.outbox.dead_letters
        found = await service.groups({"default"})
        assert [(group.reason, group.items) for group in found.groups] == [("Bad.", 3)]
        assert found.truncated
        newest = await service.find_newest("default", EVERY, 2)
        assert (len(newest.receipts), newest.total, newest.truncated) == (2, 3, True)
        assert [each.subject for each in newest.receipts] == ["uuser3", "uuser2"]
        old = await service.find_newest("default", DeadLetterFilter(reason="old"), 2)
        assert (old.receipts, old.total, old.truncated) == ([], 0, True)

    with_outbox(database, body)


def test_a_run_with_a_reason_changes_only_those_of_the_reason(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "STEP", 2)

    async def body(at: Opened) -> None:
        await died(at, "Bad.", "No.", "No.", "No.", "Bad.", "Bad.", "No.")
        observer, which = Observer(), DeadLetterFilter(reason="No.")
        counted = await run(at, observer, which, dry_run=True)
        assert (counted.state, counted.matched, counted.changed) == ("done", 4, 0)
        assert observer.steps == []
        replayed = await run(at, observer, which)
        assert (replayed.state, replayed.matched, replayed.changed) == ("done", 4, 4)
        assert observer.steps == [1, 1, 1, 1] or sum(observer.steps) == 4
        assert [item.subject for item in await at.waiting()] == [
            f"uuser{number}" for number in (1, 2, 3, 6)
        ]
        discarded = await run(at, Observer(), kind="discard")
        assert (discarded.state, discarded.changed) == ("done", 3)
        assert (await at.outbox.dead_letters.groups({"default"})).groups == []

    with_outbox(database, body)


def test_a_run_that_may_not_go_on_stops_after_a_step_and_says_why(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "STEP", 2)

    async def body(at: Opened) -> None:
        await died(at, *["Bad."] * 5)
        observer = Observer(refuses_at=1)
        found = await run(at, observer)
        assert (found.state, found.changed) == ("stopped", 2)
        assert "the log of the gateway says why" in found.detail
        assert [str(error) for error in observer.failures] == ["no more"]
        assert len(await at.waiting()) == 2

    with_outbox(database, body)


def test_a_stop_ends_a_run_after_its_step(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "STEP", 1)

    async def body(at: Opened) -> None:
        await died(at, *["Bad."] * 20)
        runs, observer = runs_of(at), Observer()
        run_id = await runs.begin(
            "default",
            "replay",
            EVERY,
            observer,
            key_id="key_1",
            choice={},
            dry_run=False,
            patience=0.0,
        )
        # The writer's thread makes the record
        while not observer.steps:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        await runs.close(10.0)
        found = await runs.find(run_id)
        assert found is not None
        assert found.state in {"stopped", "done"}
        assert found.changed == len(observer.steps) == len(await at.waiting())

    with_outbox(database, body)


def test_a_run_whose_process_is_gone_is_interrupted_and_old_ones_are_removed(database: str) -> None:
    async def body(at: Opened) -> None:
        runs, began = runs_of(at), at.now
        left = dead_letter_runs.DeadLetterRun(
            "r1", "default", "replay", False, "key_1", {"reason": "Bad."}, began, began
        )
        await at.writer.write(PutRun(left))
        assert await runs.find("r1") == left
        at.now += dead_letter_runs.SILENT_MS + 1
        (found,) = await runs.recent({"default"})
        assert (found.state, found.choice) == ("stopped", {"reason": "Bad."})
        assert await runs.recent({"other"}) == []
        assert await runs.find("r2") is None
        at.now += dead_letter_runs.RETENTION_MS
        await run(at, Observer())
        assert await runs.find("r1") is None

    with_outbox(database, body)


def test_few_runs_go_on_at_once(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letter_runs, "MOST_RUNNING", 0)

    async def body(at: Opened) -> None:
        with pytest.raises(RateLimited, match="in progress"):
            await run(at, Observer())

    with_outbox(database, body)
