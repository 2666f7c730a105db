"""The way of one call through the simulator: read, lock its users, admit, strike, act, answer."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

from app.simulator.access import DevModeRate, admit
from app.simulator.actions import Refused
from app.simulator.arrivals import Call
from app.simulator.client_keys import Key
from app.simulator.config import SimulatorConfig
from app.simulator.encoding import Unreadable
from app.simulator.execution import Outcome, Performer
from app.simulator.fault_effects import CALL_MODES, ENTRY_MODES, Draft
from app.simulator.faults import Fault, FaultPlan, Strike
from app.simulator.journal import Arrival, Journal, Record, close
from app.simulator.locks import UserLocks
from app.simulator.migration import with_migrate_state
from app.simulator.responses import Answer, Entry, enveloped, redirect, refused
from app.simulator.world import World


class Simulator:
    """All state of one simulated app, and the one thing that can be done with it: answer a call."""

    def __init__(self, config: SimulatorConfig, clock: Callable[[], float] = time.time) -> None:
        self.config = config
        self.clock = clock
        self.reset()

    def reset(self) -> None:
        """As new: no users, no memory of calls, no faults."""
        self.world = World(self.config)
        self.journal = Journal(self.config.keep_requests)
        self.faults = FaultPlan(self.config.seed)
        self.locks = UserLocks(queue=self.config.lock_users == "queue")
        self.dev_mode = DevModeRate()
        self.items = 0

    def stats(self) -> dict[str, int]:
        return {
            "calls": self.journal.calls,
            "items": self.items,
            "users": len(self.world.users),
            "overlaps": self.locks.overlaps,
            "duplicates": self.world.duplicates,
            "applied": self.world.applied,
        }

    async def answer(self, arrival: Arrival) -> Answer:
        record = self.journal.open(arrival, self.clock())
        try:
            answer = await self._locked(await self._read(record), record)
        except Refused as no:
            answer = refused(no.message, no.status)
        if self.config.migrate_state:
            answer = with_migrate_state(answer, self.config.app_id)
        close(record, answer, self.clock())
        return answer

    async def _read(self, record: Record) -> Call:
        try:
            call = Call.of(await record.arrival.read(), record.arrival.origin, self.config.texts)
        except Unreadable as error:
            raise Refused(self.config.texts.unreadable.format(reason=error), 400) from error
        self.items += len(call.items)
        return call

    async def _locked(self, call: Call, record: Record) -> Answer:
        """A call that loses is answered at once; any other holds its users until its answer is
        ready.
        """
        users = call.users(self.world)
        record.users = frozenset(user for user in users if user)
        async with self.locks.hold(set(record.users)) as granted:
            if not granted:
                raise Refused(self.config.texts.device_lock, 429)
            if self.config.latency_seconds:
                await asyncio.sleep(self.config.latency_seconds)
            return await self._admitted(call, users)

    async def _admitted(self, call: Call, users: list[str]) -> Answer:
        distinct, now = {user for user in users if user}, self.clock()
        key = admit(call, self.config, distinct)
        self.dev_mode.check(call, distinct, now, self.config.texts)
        strike = self.faults.strike(call.items, users, now)
        if strike.delay:
            await asyncio.sleep(strike.delay)
        outcomes = self._performed(call, key, strike)
        return self._answered(call, strike, outcomes)

    def _performed(self, call: Call, key: Key, strike: Strike) -> list[Outcome]:
        now = self.clock()
        performer = Performer(
            self.world, key, now, call.request_time(now), call.dev_mode, call.around
        )
        return [
            performer.perform(item) if strike.applies(index) else performer.passed_over(item)
            for index, item in enumerate(call.items)
        ]

    def _answered(self, call: Call, strike: Strike, outcomes: list[Outcome]) -> Answer:
        entries = [outcome.entry for outcome in outcomes]
        for index, fault in strike.entries.items():
            spoil = ENTRY_MODES[fault.mode].spoil
            entries[index] = spoil(entries[index], fault.message or "", self.config.texts)
        status = self._status(call, outcomes, entries)
        location = outcomes[0].location if outcomes and not strike.entries else None
        if location and (strike.whole is None or strike.whole.mode == "slow"):
            return redirect(location)
        if strike.whole is not None:
            return self._struck(strike.whole, entries, status)
        answer = enveloped(entries, status)
        for fault in strike.entries.values():
            answer = _marked(answer, fault, ENTRY_MODES[fault.mode].status)
        return answer

    def _struck(self, fault: Fault, entries: list[Entry], status: int) -> Answer:
        draft = Draft(entries, status, fault.message or "", self.config.texts)
        return _marked(CALL_MODES[fault.mode].answer(draft), fault, None)

    def _status(self, call: Call, outcomes: list[Outcome], entries: list[Entry]) -> int:
        """A lone action has its own status; a multi of only blocked users is 451 (I)."""
        if not call.multi:
            return outcomes[0].status
        if outcomes and all(outcome.status == 451 for outcome in outcomes):
            return 451
        return 200 if all(entry["success"] for entry in entries) else self.config.mixed_status


def _marked(answer: Answer, fault: Fault, status: int | None) -> Answer:
    """The answer with the status and the Retry-After that a fault asks for."""
    headers = dict(answer.headers)
    if fault.retry_after is not None:
        wish = fault.retry_after
        headers["Retry-After"] = wish if isinstance(wish, str) else f"{wish:g}"
    return replace(answer, status=fault.status or status or answer.status, headers=headers)
