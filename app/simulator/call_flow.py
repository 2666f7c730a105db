"""The flow of one call: decode, lock users, authorize, choose faults, execute, respond."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

from app.simulator.access import DevModeRateLimit, ProfileLocks, authorize
from app.simulator.actions.context import Refused
from app.simulator.call import ReceivedRequest, SimulatedCall, UndecodableRequest
from app.simulator.config import ClientKeyKind, SimulatorConfig
from app.simulator.execution import ActionExecutor, ActionOutcome
from app.simulator.fault_effects import CALL_MODES, ENTRY_MODES, ResponseDraft
from app.simulator.faults import CallFaults, FaultPlan, PlannedFault
from app.simulator.journal import Journal, JournalEntry
from app.simulator.responses import (
    Entry,
    SimulatedResponse,
    add_migration_state,
    envelope,
    redirect,
    refusal,
)
from app.simulator.world import World


class Simulator:
    """A simulated app with all its state, which answers calls."""

    def __init__(self, config: SimulatorConfig, clock: Callable[[], float] = time.time) -> None:
        self.config = config
        self.clock = clock
        self.faults = FaultPlan(config.seed)
        self.reset()

    def reset(self) -> None:
        """Restore the initial state, without any recorded calls or faults."""
        self.faults.clear()
        self.world = World(self.config)
        self.journal = Journal(self.config.keep_requests)
        self.faults = FaultPlan(self.config.seed)
        self.locks = ProfileLocks(queue=self.config.lock_users == "queue")
        self.dev_mode_rate = DevModeRateLimit()
        self.items = 0

    def stats(self) -> dict[str, int]:
        """Return the counters that /_simulator/stats shows."""
        return {
            "calls": self.journal.calls,
            "items": self.items,
            "users": len(self.world.users),
            "overlaps": self.locks.overlaps,
            "duplicates": self.world.duplicates,
            "applied": self.world.applied,
        }

    async def answer(self, request: ReceivedRequest) -> SimulatedResponse:
        """Answer a request, and record both in the journal."""
        entry = self.journal.open(request, self.clock())
        try:
            response = await self._lock_and_answer(await self._decode(request), entry)
        except Refused as refused:
            response = refusal(refused.message, refused.status)
        if self.config.migrate_state:
            response = add_migration_state(response, self.config.app_id)
        entry.finish(response, self.clock())
        return response

    async def _decode(self, request: ReceivedRequest) -> SimulatedCall:
        texts = self.config.texts
        try:
            call = SimulatedCall.from_request(await request.decode(), request.origin, texts)
        except UndecodableRequest as error:
            raise Refused(texts.unreadable.format(reason=error), 400) from error
        self.items += len(call.items)
        return call

    async def _lock_and_answer(self, call: SimulatedCall, entry: JournalEntry) -> SimulatedResponse:
        """Lock the users until the response is ready, or refuse the call at once."""
        users = call.users(self.world)
        entry.users = frozenset(user for user in users if user)
        async with self.locks.hold(set(entry.users)) as granted:
            if not granted:
                raise Refused(self.config.texts.device_lock, 429)
            if self.config.latency_seconds:
                await asyncio.sleep(self.config.latency_seconds)
            return await self._answer_locked(call, users)

    async def _answer_locked(self, call: SimulatedCall, users: list[str]) -> SimulatedResponse:
        distinct, now = {user for user in users if user}, self.clock()
        key = authorize(call, self.config, distinct)
        self.dev_mode_rate.check(call, distinct, now, self.config.texts)
        faults = self.faults.choose(call.items, users, now)
        if faults.delay:
            await self.faults.wait(faults.delay)
        outcomes = self._execute(call, key, faults)
        return self._respond(call, faults, outcomes)

    def _execute(
        self, call: SimulatedCall, key: ClientKeyKind, faults: CallFaults
    ) -> list[ActionOutcome]:
        now = self.clock()
        executor = ActionExecutor(
            world=self.world,
            key=key,
            now=now,
            request_time=call.request_time(now),
            dev_mode=call.dev_mode,
            call=call.context,
        )
        return [
            executor.execute(item) if faults.allow_action(index) else executor.pretend(item)
            for index, item in enumerate(call.items)
        ]

    def _respond(
        self, call: SimulatedCall, faults: CallFaults, outcomes: list[ActionOutcome]
    ) -> SimulatedResponse:
        """Make the response of the outcomes, as the faults change it."""
        entries = [outcome.entry for outcome in outcomes]
        for index, fault in faults.entries.items():
            alter = ENTRY_MODES[fault.mode].alter
            entries[index] = alter(entries[index], fault.message or "", self.config.texts)
        status = self._status(call, outcomes, entries)
        location = outcomes[0].location if outcomes and not faults.entries else None
        if location and (faults.whole is None or faults.whole.mode == "slow"):
            return redirect(location)
        if faults.whole is not None:
            return self._respond_with_fault(faults.whole, entries, status)
        response = envelope(entries, status)
        for fault in faults.entries.values():
            response = _apply_fault(response, fault, ENTRY_MODES[fault.mode].status)
        return response

    def _respond_with_fault(
        self, fault: PlannedFault, entries: list[Entry], status: int
    ) -> SimulatedResponse:
        draft = ResponseDraft(entries, status, fault.message or "", self.config.texts)
        return _apply_fault(CALL_MODES[fault.mode].respond(draft), fault, None)

    def _status(
        self, call: SimulatedCall, outcomes: list[ActionOutcome], entries: list[Entry]
    ) -> int:
        """Return the HTTP status: a lone action's own; 451 for a multi of blocked users (I)."""
        if not call.multi:
            return outcomes[0].status
        if outcomes and all(outcome.status == 451 for outcome in outcomes):
            return 451
        if all(entry["success"] for entry in entries):
            return 200
        return self.config.mixed_status


def _apply_fault(
    response: SimulatedResponse, fault: PlannedFault, mode_status: int | None
) -> SimulatedResponse:
    """Apply the status and the Retry-After of a fault."""
    headers = dict(response.headers)
    if isinstance(fault.retry_after, str):
        headers["Retry-After"] = fault.retry_after
    elif fault.retry_after is not None:
        headers["Retry-After"] = f"{fault.retry_after:g}"
    status = fault.status or mode_status or response.status
    return replace(response, status=status, headers=headers)
