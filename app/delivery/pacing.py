"""Decisions on whether a call to Leanplum may begin now, from the results of earlier calls. Pure.

`Circuit` stops calls while they fail and lets one through as a probe; `Pace` keeps calls to a rate
that Leanplum accepts without complaint, by additive increase and multiplicative decrease (as TCP
does, RFC 5681 §3.1). Times are in seconds of a monotonic clock, and are arguments.
"""

from collections import deque
from enum import StrEnum

from app.leanplum.replies import Doubtful, Reply, SplitNeeded
from app.model import ConfigRefused, Trouble

FAILURES = 5  # calls in trouble, one after the other, that open the circuit
LONGEST_SECONDS = 60.0  # between probes of an open circuit: how late a recovery may be noticed
MAX_RATE, MIN_RATE = 1_000.0, 5.0  # calls a second
RATE_INCREASE = 20.0  # calls a second more, for each second without a complaint
# Calls of so many seconds may begin at once: else calls that are ready together wait in a row
BURST_SECONDS = 0.05
# Calls that were in flight at a complaint will complain as well; together they are one complaint
COOLDOWN_SECONDS = 1.0
SLOW_SECONDS = 2.0  # a call may take so long without being a sign of overload
SLOW_FACTOR = 4.0  # times the usual duration


class CircuitState(StrEnum):
    """The state of a circuit: calls go; Leanplum is unavailable; it refuses our key or app."""

    CLOSED = "closed"
    OPEN = "open"
    HELD = "held"


class Circuit:
    """A circuit breaker: closed until calls fail, then open, with one probe at a time.

    An open circuit doubles its wait after each failed probe. A held circuit waits for a person to
    correct the configuration, and probes at a constant interval. Only lanes whose calls failed wait
    for the probe; if one user's items may be the cause, another user's items are probed at once.
    """

    def __init__(self, *, shortest: float, held: float, longest: float = LONGEST_SECONDS) -> None:
        self._shortest, self._held, self._longest = shortest, held, longest
        self.state = CircuitState.CLOSED
        self._failures = 0
        self._wait = shortest
        self._probe_at = 0.0

    def max_in_flight(self, now: float) -> int | None:
        """Return how many calls may be in flight now; None where the circuit sets no limit."""
        if self.state is CircuitState.CLOSED:
            return None
        return 1 if now >= self._probe_at else 0

    def close(self) -> None:
        """Close the circuit: Leanplum has answered about items."""
        self.state, self._failures, self._wait = CircuitState.CLOSED, 0, self._shortest
        self._probe_at = 0.0

    def note_failure(self, now: float) -> None:
        """Count a call that failed by Leanplum's fault or the network's."""
        self._failures += 1
        if now < self._probe_at:
            return
        if self.state is CircuitState.CLOSED and self._failures < FAILURES:
            return
        self.state, self._probe_at = CircuitState.OPEN, now + self._wait
        self._wait = min(self._wait * 2, self._longest)

    def hold(self, now: float, *, probe_now: bool = False) -> None:
        """Hold the circuit: Leanplum refused our key or app, or all that we send is in doubt."""
        self.state, self._probe_at = CircuitState.HELD, now if probe_now else now + self._held


class Pace:
    """The rate of calls, in calls a second."""

    def __init__(self) -> None:
        self.rate = MAX_RATE
        self._begun: deque[float] = deque()  # times of the calls begun in the last second
        self._next = 0.0
        self._complained_at = -COOLDOWN_SECONDS
        self._raised_at = 0.0
        self._usual_seconds: float | None = None

    def wait(self, now: float) -> float:
        """Return the seconds until the next call may begin; 0 where it may now."""
        return max(0.0, self._next - now)

    def note_begin(self, now: float) -> None:
        """Count a call that begins now."""
        self._begun.append(now)
        while self._begun[0] <= now - 1.0:
            self._begun.popleft()
        self._next = max(self._next, now - BURST_SECONDS) + 1.0 / self.rate

    def note_throttled(self, now: float, after: float) -> None:
        """Slow down: Leanplum asked for fewer calls, and for none within `after` seconds."""
        self._next = max(self._next, now + after)
        self._lower(now, 0.5)

    def note_answer(self, now: float, seconds: float) -> None:
        """Adapt to an answer without complaint; one that took far longer than usual is one, too."""
        if self._usual_seconds is None:
            self._usual_seconds = seconds
        self._usual_seconds += (seconds - self._usual_seconds) / 50
        if seconds > max(SLOW_SECONDS, SLOW_FACTOR * self._usual_seconds):
            self._lower(now, 0.8)
        elif now - self._complained_at >= COOLDOWN_SECONDS:
            increase = RATE_INCREASE * min(1.0, now - self._raised_at)
            self.rate = min(MAX_RATE, self.rate + increase)
            self._raised_at = now

    def _lower(self, now: float, factor: float) -> None:
        """Lower the rate, from that of the calls really made, which may be far below the limit."""
        if now - self._complained_at < COOLDOWN_SECONDS:
            return
        self._complained_at = self._raised_at = now
        self.rate = max(MIN_RATE, min(self.rate, len(self._begun)) * factor)


class CallPacer:
    """The circuit and the pace of one app's calls."""

    def __init__(self, *, shortest: float, held: float, longest: float = LONGEST_SECONDS) -> None:
        self.circuit = Circuit(shortest=shortest, held=held, longest=longest)
        self.pace = Pace()

    def wait(self, now: float, in_flight: int) -> float | None:
        """Return the seconds until another call may begin beside `in_flight` others.

        None where an answer, or the time of the next probe, must come first.
        """
        max_in_flight = self.circuit.max_in_flight(now)
        if max_in_flight is not None and in_flight >= max_in_flight:
            return None
        return self.pace.wait(now)

    @property
    def probing(self) -> bool:
        """Return whether the next call only finds out whether calls may go again."""
        return self.circuit.state is not CircuitState.CLOSED

    def hold_in_doubt(self, now: float, users: int) -> None:
        """Hold the app, since an item's fault cannot be told from one of all that we send.

        `users`: how many users' own calls were doubtful since one passed. The first probe comes at
        once, and so does any while that is one user: it is another user's.
        """
        first = self.circuit.state is not CircuitState.HELD
        self.circuit.hold(now, probe_now=first or users < 2)

    def note_reply(self, now: float, seconds: float, reply: Reply) -> None:
        """Note the reply to a call that took `seconds`."""
        held = self.circuit.state is CircuitState.HELD
        if isinstance(reply, Doubtful) or (held and isinstance(reply, SplitNeeded)):
            return  # neither shows that calls may go
        outcomes = [] if isinstance(reply, SplitNeeded) else reply
        if any(isinstance(outcome, ConfigRefused) for outcome in outcomes):
            self.circuit.hold(now)
            return
        troubles = [outcome for outcome in outcomes if isinstance(outcome, Trouble)]
        only_trouble = bool(troubles) and len(troubles) == len(outcomes)
        if any(trouble.throttled for trouble in troubles):
            self.pace.note_throttled(now, max(trouble.after for trouble in troubles))
            if held and only_trouble:
                self.circuit.hold(now)  # a throttled call says nothing of why the app is held
            else:
                self.circuit.close()
        elif only_trouble:
            self.circuit.note_failure(now)
        else:
            self.circuit.close()
            self.pace.note_answer(now, seconds)
