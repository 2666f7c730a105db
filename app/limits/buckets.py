"""Rate limits: the limits of a call, token buckets in memory, and the limiter of one process.

A bucket is kept as GCRA ("Generic cell rate algorithm", ITU-T I.371, in its form as a
continuous-state leaky bucket): two numbers, its deficit (how many items it misses of being full)
and the time of that. Times are in seconds. A bucket's rate and size come with each call, so a
changed limit is in force from the next call on.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from app.model import App, Caller

TOLERANCE = 1e-6  # of an item: the error that floating point may make
MAX_POLICIES = 10_000
SWEEP_SIZE = 10_000  # buckets in memory; beyond that the full ones are removed


class Limit(NamedTuple):
    """One bucket: its name, the items that it regains each second, and the items that it holds.

    A call for up to `whole` items passes a full bucket even where that holds fewer, and the deficit
    is refilled before the next call passes. `lends`: a call for more than `whole` items passes
    where one item would. The bucket's deficit has all of them then, and the part beyond `whole` is
    a debt, which a smaller bucket doesn't cancel.
    """

    name: str
    rate: float
    burst: float
    whole: int
    lends: bool = False

    def later(self, deficit: float, seconds: float) -> float:
        """Return the deficit of a bucket that many seconds after it had `deficit`."""
        return max(0.0, deficit - seconds * self.rate)

    def resized(self, deficit: float, held: int) -> float:
        """Return the deficit of a bucket that held `held` items before and holds `whole` now.

        It is at most `whole`, and its debt.
        """
        return deficit - max(0.0, min(held, deficit) - self.whole)

    def fits(self, deficit: float, count: int) -> bool:
        """Return whether a call for `count` items passes a bucket with this deficit."""
        if deficit + count <= self.burst + TOLERANCE:
            return True
        if count <= self.whole:
            return deficit <= TOLERANCE
        return self.lends and self.fits(deficit, 1)

    def remaining(self, deficit: float) -> int:
        """Return how many items may pass at once."""
        left = int(self.burst - deficit + TOLERANCE)
        return left if left > 0 else 0

    def full_in(self, deficit: float) -> float:
        """Return the seconds until the bucket is full."""
        return deficit / self.rate

    def wait(self, deficit: float, count: int) -> float:
        """Return the seconds until `count` items may pass; infinite where they never do."""
        if count > self.whole:
            return self.wait(deficit, 1) if self.lends else math.inf
        return max(0.0, deficit - max(0.0, self.burst - count)) / self.rate


class Decision(NamedTuple):
    """The answer to a call: whether it passes, its limits, and the deficit of each bucket.

    The deficits are those after the call where it passes, else unchanged.
    """

    allowed: bool
    limits: Sequence[Limit]
    deficits: Sequence[float]

    def fits(self, count: int) -> bool:
        """Return whether `count` items pass all of these buckets."""
        pairs = zip(self.limits, self.deficits, strict=True)
        return all(limit.fits(deficit, count) for limit, deficit in pairs)

    def wait(self, count: int) -> float:
        """Return the seconds until `count` items may pass; infinite where they never do."""
        pairs = zip(self.limits, self.deficits, strict=True)
        return max(limit.wait(deficit, count) for limit, deficit in pairs)


# The deficit of a bucket, the time of that, and the rate and `whole` of its limit then. A plain
# tuple: a NamedTuple makes `Buckets.take` a third slower.
_Bucket = tuple[float, float, float, int]


class Buckets:
    """Buckets in memory. Full ones are removed, so the recent callers bound the memory."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}
        self._sweep_size = SWEEP_SIZE

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, limits: Sequence[Limit], count: int) -> Decision:
        """Take `count` items from every one of the buckets, or nothing from any."""
        if len(limits) > 1:
            return self._take_from_all(limits, count)
        # Nearly every call has one bucket. The code of `_deficit` and `_store` is repeated here,
        # since calling them costs more than what they do.
        limit, now, buckets = limits[0], self._clock(), self._buckets
        bucket = buckets.get(limit.name)
        deficit = 0.0 if bucket is None else bucket[0] - (now - bucket[1]) * limit.rate
        if not 0 <= deficit <= limit.whole:
            deficit = 0.0 if deficit < 0 else self._deficit(limit, now)
        if deficit + count > limit.burst and not limit.fits(deficit, count):
            return Decision(False, limits, (deficit,))
        if count:
            deficit += count
            buckets[limit.name] = (deficit, now, limit.rate, limit.whole)
            if len(buckets) > self._sweep_size:
                self._sweep(now)
        # `tuple.__new__` takes half the time of the class's own constructor
        return tuple.__new__(Decision, (True, limits, (deficit,)))

    def _take_from_all(self, limits: Sequence[Limit], count: int) -> Decision:
        now = self._clock()
        before = Decision(True, limits, [self._deficit(limit, now) for limit in limits])
        if not before.fits(count):
            return before._replace(allowed=False)
        if not count:
            return before
        deficits = [deficit + count for deficit in before.deficits]
        for limit, deficit in zip(limits, deficits, strict=True):
            self._store(limit, deficit, now)
        return Decision(True, limits, deficits)

    def give(self, limits: Sequence[Limit], count: int) -> Decision:
        """Give `count` items back to every one of the buckets, up to its deficit."""
        now = self._clock()
        deficits = [max(0.0, self._deficit(limit, now) - count) for limit in limits]
        for limit, deficit in zip(limits, deficits, strict=True):
            self._store(limit, deficit, now)
        return Decision(True, limits, deficits)

    def put(self, limit: Limit, deficit: float) -> None:
        """Set a bucket's deficit, as another source knows it."""
        self._store(limit, deficit, self._clock())

    def _deficit(self, limit: Limit, now: float) -> float:
        bucket = self._buckets.get(limit.name)
        if bucket is None:
            return 0.0
        stored_deficit, stored_at, _, stored_whole = bucket
        deficit = limit.later(stored_deficit, now - stored_at)
        # A limit that was made smaller counts from now on
        if deficit > limit.whole and stored_whole > limit.whole:
            deficit = limit.resized(deficit, stored_whole)
            self._store(limit, deficit, now)
        return deficit

    def _store(self, limit: Limit, deficit: float, now: float) -> None:
        self._buckets[limit.name] = (deficit, now, limit.rate, limit.whole)
        if len(self._buckets) > self._sweep_size:
            self._sweep(now)

    def _sweep(self, now: float) -> None:
        self._buckets = {
            name: (deficit, time, rate, whole)
            for name, (deficit, time, rate, whole) in self._buckets.items()
            if deficit > (now - time) * rate
        }
        self._sweep_size = max(SWEEP_SIZE, 2 * len(self._buckets))


class RatePolicy(NamedTuple):
    """The limits of one caller's calls about one app, and the response header that names them.

    `lending`: the limits for clients that cannot split a batch.
    """

    caller: Caller
    app: App | None
    limits: tuple[Limit, ...]
    lending: tuple[Limit, ...]
    header: tuple[bytes, bytes]


class RatePolicies:
    """The limits of all callers and apps.

    A key without a limit of its own has the gateway's. A key or an app that has a rate but no burst
    may save up as many seconds of its rate as the gateway's burst is of the gateway's rate.
    """

    def __init__(self, rate: int, burst: int) -> None:
        self._rate, self._burst = rate, burst
        self._policies: dict[tuple[str, str], RatePolicy] = {}

    def policy_for(self, caller: Caller, app: App | None) -> RatePolicy:
        """Return the limits of a call.

        A caller or an app that was changed is another object, so its limits are made anew.
        """
        key = (caller.key_id, "" if app is None else app.name)
        policy = self._policies.get(key)
        if policy is None or policy.caller is not caller or policy.app is not app:
            if len(self._policies) >= MAX_POLICIES:
                self._policies.clear()
            policy = self._policies[key] = self._make(caller, app)
        return policy

    def _make(self, caller: Caller, app: App | None) -> RatePolicy:
        rate = caller.rate_per_second or self._rate
        burst = caller.rate_burst or self._default_burst(rate)
        limits = [Limit(f"caller:{caller.key_id}", rate, burst, burst)]
        header = b'"caller";q=%d;w=1' % rate
        if app is not None and app.rate_per_second is not None:
            burst = app.rate_burst or self._default_burst(app.rate_per_second)
            limits.append(Limit(f"app:{app.name}", app.rate_per_second, burst, burst))
            header += b', "app";q=%d;w=1' % app.rate_per_second
        return RatePolicy(
            caller=caller,
            app=app,
            limits=tuple(limits),
            lending=tuple(limit._replace(lends=True) for limit in limits),
            header=(b"ratelimit-policy", header),
        )

    def _default_burst(self, rate: int) -> int:
        return max(1, rate * self._burst // self._rate)


class Limiter(Protocol):
    """A rate limiter: `LocalLimiter` for one process, `SharedLimiter` for all replicas."""

    def take_now(self, limits: Sequence[Limit], count: int) -> Decision | None:
        """Decide like `take` where no waiting is needed; else return None and take nothing."""

    async def take(self, limits: Sequence[Limit], count: int) -> Decision:
        """Take `count` items from every one of the buckets, or nothing from any."""

    async def give(self, limits: Sequence[Limit], count: int) -> Decision:
        """Give `count` items back to every one of the buckets, up to its deficit."""

    def state(self) -> str | None:
        """Describe for operators how far limits are shared; None where no sharing is set up."""


class LocalLimiter:
    """Limits of a single replica, by buckets in memory."""

    def __init__(self, buckets: Buckets) -> None:
        self._buckets = buckets
        self.take_now = buckets.take  # never has to wait

    async def take(self, limits: Sequence[Limit], count: int) -> Decision:
        """Take `count` items from every one of the buckets, or nothing from any."""
        return self._buckets.take(limits, count)

    async def give(self, limits: Sequence[Limit], count: int) -> Decision:
        """Give `count` items back to every one of the buckets, up to its deficit."""
        return self._buckets.give(limits, count)

    def state(self) -> str | None:
        """Return None: nothing is shared."""
        return None
