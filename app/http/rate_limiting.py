"""Rate limits of calls, checked before any work is done for them.

Responses report the limits in the headers of draft-ietf-httpapi-ratelimit-headers. RateLimit-Policy
has `q` items for every `w` seconds. RateLimit has `r`, the items that may pass now (more than `q`
while the burst is not used up), and `t`, the seconds until the bucket is full again. The draft has
no parameter for the size of a bucket; it is the `r` of a full one.
"""

import ipaddress
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from app.apps import AppRegistry
from app.errors import (
    CommitUnknown,
    GatewayError,
    KeyNotConfigured,
    QueueFull,
    RateLimited,
    StorageUnavailable,
)
from app.http.request import RequestContext
from app.limits.buckets import Decision, Limit, Limiter, RatePolicies, RatePolicy
from app.model import Caller

LOCKED_OUT = "Too many failed authentications from this address; wait before you try again."
# Errors that the caller did not cause, and after which nothing was accepted.
NOTHING_ACCEPTED = (StorageUnavailable, QueueFull, KeyNotConfigured)
# In the order of a policy's limits.
NAMES_OF_LIMITS = ("this key's limit", "the limit that all callers of the app share")
KINDS_OF_LIMITS = ("key", "app")
ADDRESS = "address"  # the kind of the limit on failed authentications


class LimitUsage(NamedTuple):
    """The limit of a caller: items per second, items at once, and how many may pass now."""

    rate: float
    burst: float
    remaining: int


class RateLimiter:
    """The limits on items of callers and apps, and on failed authentications of addresses."""

    def __init__(
        self,
        limiter: Limiter,
        policies: RatePolicies,
        apps: AppRegistry,
        *,
        failures_per_minute: int,
        on_limited: Callable[[str], None] = lambda limit: None,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        """Create the limiter of the callers of these apps.

        `on_limited` is called with the kind of the limit that refuses a call (`key`, `app` or
        `address`), `on_failure` for each failed authentication.
        """
        self._limiter, self._policies, self._apps = limiter, policies, apps
        self._on_limited, self._on_failure = on_limited, on_failure
        self._failures_per_minute = failures_per_minute

    async def take(
        self, context: RequestContext, caller: Caller, count: int, *, lends: bool = False
    ) -> None:
        """Take `count` items from the buckets of the caller and of the app, or none from either.

        With `lends`, a call that is larger than a bucket passes if one item would; the bucket is
        then in debt. Raises RateLimited.
        """
        policy = self._policies.policy_for(caller, context.app)
        limits = policy.lending if lends else policy.limits
        decision = self._limiter.take_now(limits, count) or await self._limiter.take(limits, count)
        context.rate_headers = _rate_headers(policy, decision)
        if not decision.allowed:
            raise self._refusal(limits, decision, count)

    async def give_back(
        self, context: RequestContext, caller: Caller, count: int, error: GatewayError
    ) -> None:
        """Give back all but one of the items of a call that was refused as a whole.

        This happens only if certainly nothing was accepted and the caller did not cause the error,
        since the call has to be sent again.
        """
        nothing_accepted = isinstance(error, NOTHING_ACCEPTED)
        if count <= 1 or not nothing_accepted or isinstance(error, CommitUnknown):
            return
        if context.recorded:  # part of the call was accepted
            return
        policy = self._policies.policy_for(caller, context.app)
        decision = await self._limiter.give(policy.limits, count - 1)
        context.rate_headers = _rate_headers(policy, decision)

    async def charge_unread(self, context: RequestContext) -> None:
        """Take an item for a call that is not read, since the gateway holds too many bytes already.

        The item counts for the caller whose key was seen, if any. Raises RateLimited.
        """
        context.overloaded = True
        if context.caller is not None:
            await self.take(context, context.caller, 1)

    async def refuse_spent(
        self,
        context: RequestContext,
        caller: Caller,
        count: int = 1,
        *,
        lends: bool = False,
        ask: bool = True,
    ) -> None:
        """Refuse a call whose `count` items would not pass, before its body is read or validated.

        Nothing is taken. `ask` is False if the answer of a shared limiter is not worth waiting for;
        the call is limited later all the same. Raises RateLimited.
        """
        policy = self._policy_of(context, caller)
        limits = policy.lending if lends else policy.limits
        decision = await self._look(limits, ask=ask)
        if decision is not None and not decision.fits(count):
            context.rate_headers = _rate_headers(policy, decision)
            raise self._refusal(limits, decision, count)

    async def room(
        self, context: RequestContext, caller: Caller, *, lends: bool = False, ask: bool = True
    ) -> Callable[[int], bool]:
        """Return a predicate that tells whether a number of items would pass now; take nothing."""
        policy = self._policy_of(context, caller)
        decision = await self._look(policy.lending if lends else policy.limits, ask=ask)
        return _any_count if decision is None else decision.fits

    async def usage(self, caller: Caller) -> LimitUsage:
        """Return the state of a caller's own limit; take nothing."""
        limits = self._policies.policy_for(caller, None).limits
        decision = await self._limiter.take(limits, 0)
        limit = decision.limits[0]
        return LimitUsage(limit.rate, limit.burst, limit.remaining(decision.deficits[0]))

    async def refuse_locked_out(self, address: str) -> None:
        """Refuse an address whose next failed authentication would exceed the limit.

        Nothing is counted. Raises RateLimited.
        """
        decision = await self._limiter.take((self._failure_limit(address),), 0)
        if not decision.limits[0].fits(decision.deficits[0], 1):
            raise self._lock_out(decision)

    async def count_failure(self, address: str) -> None:
        """Count a failed authentication. Raises RateLimited if the address failed too often."""
        self._on_failure()
        decision = await self._limiter.take((self._failure_limit(address),), 1)
        if not decision.allowed:
            raise self._lock_out(decision)

    def state(self) -> str | None:
        """Return the state of limits shared among replicas; None if they are not to be shared."""
        return self._limiter.state()

    def _lock_out(self, decision: Decision) -> RateLimited:
        """Return the error for an address that has failed too often."""
        self._on_limited(ADDRESS)
        return RateLimited(LOCKED_OUT, decision.wait(1))

    def _refusal(self, limits: Sequence[Limit], decision: Decision, count: int) -> RateLimited:
        """Return the error for the limit that keeps the call waiting longest."""
        waits = [
            limit.wait(lack, count)
            for limit, lack in zip(decision.limits, decision.deficits, strict=True)
        ]
        index = waits.index(max(waits))
        self._on_limited(KINDS_OF_LIMITS[index])
        return _rate_limited(limits[index], decision, index, waits[index], count)

    def _policy_of(self, context: RequestContext, caller: Caller) -> RatePolicy:
        """Return the limits of a call whose app may not be known yet."""
        return self._policies.policy_for(caller, context.app or self._apps.implied(caller.apps))

    async def _look(self, limits: Sequence[Limit], *, ask: bool) -> Decision | None:
        """Return the state of the buckets; None if only a server has it and `ask` is False."""
        decision = self._limiter.take_now(limits, 0)
        if decision is None and ask:
            return await self._limiter.take(limits, 0)
        return decision

    def _failure_limit(self, address: str) -> Limit:
        most = self._failures_per_minute
        return Limit(f"address:{network(address)}", most / 60, most, most)


def network(address: str) -> str:
    """Return what counts as one address: for IPv6 the /64, which a single host is assigned."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:  # not an IP address: a Unix socket, or a name that a proxy chose
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))


def _any_count(count: int) -> bool:
    return True


def _rate_headers(policy: RatePolicy, decision: Decision) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers with the limits and their state.

    While Valkey is unavailable, the limits of the decision are lower than the policy's.
    """
    limit, lack = decision.limits[0], decision.deficits[0]
    state = b'"caller";r=%d;t=%d' % (limit.remaining(lack), math.ceil(lack / limit.rate))
    if len(decision.limits) > 1:
        limit, lack = decision.limits[1], decision.deficits[1]
        state += b', "app";r=%d;t=%d' % (limit.remaining(lack), math.ceil(lack / limit.rate))
    return policy.header, (b"ratelimit", state)


def _rate_limited(
    limit: Limit, decision: Decision, index: int, wait: float, count: int
) -> RateLimited:
    """Return the error for a call of `count` items that this limit of the decision refuses."""
    name = NAMES_OF_LIMITS[index]
    items = "1 item" if count == 1 else f"{count} items"
    if math.isinf(wait):
        # The time after which the largest part that can ever pass may pass.
        part_passes = decision.limits[index].full_in(decision.deficits[index])
        return RateLimited(
            f"{items} exceed the burst of {name}, which is {limit.whole}; split them.",
            part_passes,
        )
    return RateLimited(f"{items} would exceed {name} of {limit.rate} per second.", wait)
