"""Whether a call to Leanplum may begin now, from what came of those before. Pure: it is told the
time, in seconds of a clock that never goes back.

`Circuit` stops calls while they lead nowhere and lets one through to probe; `Pace` keeps them to a
rate that Leanplum takes without complaint: additive increase, multiplicative decrease (RFC 5681
§3.1 has the same for TCP).
"""

from collections import deque
from enum import StrEnum

from app.leanplum.replies import Doubtful, Reply, SplitNeeded
from app.model import ConfigRefused, Trouble

FAILURES = 5  # calls in trouble, one after the other, that open the circuit
LONGEST_SECONDS = 60.0  # between probes while Leanplum is away: how late its return may be noticed
MOST, LEAST = 1_000.0, 5.0  # calls a second
RISE = 20.0  # calls a second more, each second without complaint
# So much of the rate may begin at once: else calls that are ready together wait in a row
BURST_SECONDS = 0.05
# What was in flight at a complaint will complain as well: that is one complaint
COOLDOWN_SECONDS = 1.0
SLOW_SECONDS = 2.0  # a call may take so long without being a sign of anything
SLOW_FACTOR = 4.0  # times what is usual


class State(StrEnum):
    """Of a circuit: calls go; Leanplum is away; Leanplum refuses our key or app."""

    CLOSED = "closed"
    OPEN = "open"
    HELD = "held"


class Circuit:
    """Closed until calls lead nowhere; then open, with one probe at a time after waits that double;
    `held` is the same with one steady wait, since only a person can mend that. Who waits until a
    probe is those whose calls failed: what is in doubt for one user alone may be probed at once
    with another's items.
    """

    def __init__(self, *, shortest: float, held: float) -> None:
        self._shortest, self._held = shortest, held
        self.state = State.CLOSED
        self._failures = 0
        self._wait = shortest
        self._probe_at = 0.0

    def room(self, now: float) -> int | None:
        """How many calls may be in flight now; None where that is not for the circuit to say."""
        if self.state is State.CLOSED:
            return None
        return 1 if now >= self._probe_at else 0

    def succeeded(self) -> None:
        """Leanplum has answered about items."""
        self.state, self._failures, self._wait = State.CLOSED, 0, self._shortest

    def failed(self, now: float) -> None:
        """A call came to nothing, by Leanplum's fault or the network's."""
        self._failures += 1
        if now < self._probe_at or (self.state is State.CLOSED and self._failures < FAILURES):
            return
        self.state, self._probe_at = State.OPEN, now + self._wait
        self._wait = min(self._wait * 2, LONGEST_SECONDS)

    def refused(self, now: float, *, probe_now: bool = False) -> None:
        """Leanplum refused our key or app, or all that we send is in doubt."""
        self.state, self._probe_at = State.HELD, now if probe_now else now + self._held


class Pace:
    """Calls a second."""

    def __init__(self) -> None:
        self.rate = MOST
        self._begun: deque[float] = deque()  # in the last second
        self._next = 0.0
        self._complained = -COOLDOWN_SECONDS
        self._raised = 0.0
        self._usual: float | None = None

    def wait(self, now: float) -> float:
        """Seconds until the next call may begin; 0 where it may now."""
        return max(0.0, self._next - now)

    def began(self, now: float) -> None:
        """A call has begun."""
        self._begun.append(now)
        while self._begun[0] <= now - 1.0:
            self._begun.popleft()
        self._next = max(self._next, now - BURST_SECONDS) + 1.0 / self.rate

    def throttled(self, now: float, after: float) -> None:
        """Leanplum asked for fewer calls, and for none within `after` seconds."""
        self._next = max(self._next, now + after)
        self._lower(now, 0.5)

    def answered(self, now: float, seconds: float) -> None:
        """Leanplum answered without complaint, after `seconds`: far more than usual is a complaint
        as well.
        """
        usual = self._usual = (
            seconds if self._usual is None else self._usual + (seconds - self._usual) / 50
        )
        if seconds > max(SLOW_SECONDS, SLOW_FACTOR * usual):
            self._lower(now, 0.8)
        elif now - self._complained >= COOLDOWN_SECONDS:
            self.rate = min(MOST, self.rate + RISE * min(1.0, now - self._raised))
            self._raised = now

    def _lower(self, now: float, factor: float) -> None:
        """From the rate at which calls were really made, which may be far below the one allowed."""
        if now - self._complained < COOLDOWN_SECONDS:
            return
        self._complained = self._raised = now
        self.rate = max(LEAST, min(self.rate, len(self._begun)) * factor)


class Gate:
    """Both together, for the calls of one app."""

    def __init__(self, *, shortest: float, held: float) -> None:
        self.circuit, self.pace = Circuit(shortest=shortest, held=held), Pace()

    def wait(self, now: float, in_flight: int) -> float | None:
        """Seconds until another call may begin beside those in flight: 0 where it may now, None
        where an answer, or the time of the next probe, must come first.
        """
        room = self.circuit.room(now)
        return self.pace.wait(now) if room is None or in_flight < room else None

    @property
    def probing(self) -> bool:
        """Whether the next call only finds out whether calls may go again."""
        return self.circuit.state is not State.CLOSED

    def doubted(self, now: float, users: int) -> None:
        """Nothing tells an item's fault from one of all that we send: hold. `users`: how many
        users' own calls were doubtful since one passed. The first probe comes at once, and any
        while that is one user: it is another's.
        """
        first = self.circuit.state is not State.HELD
        self.circuit.refused(now, probe_now=first or users < 2)

    def heard(self, now: float, seconds: float, reply: Reply) -> None:
        """What came of one call, which took `seconds`."""
        held = self.circuit.state is State.HELD
        if isinstance(reply, Doubtful) or (held and isinstance(reply, SplitNeeded)):
            return None  # neither shows that calls may go
        outcomes = [] if isinstance(reply, SplitNeeded) else reply
        if any(isinstance(one, ConfigRefused) for one in outcomes):
            return self.circuit.refused(now)
        troubles = [one for one in outcomes if isinstance(one, Trouble)]
        if any(one.throttled for one in troubles):
            self.pace.throttled(now, max(one.after for one in troubles))
            if held and len(troubles) == len(outcomes):
                return self.circuit.refused(now)  # it says nothing of what the app is held for
            return self.circuit.succeeded()
        if troubles and len(troubles) == len(outcomes):
            return self.circuit.failed(now)
        self.circuit.succeeded()
        return self.pace.answered(now, seconds)
