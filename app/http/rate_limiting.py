"""How fast: the limits of a call, taken before anything is done for it, and told in the headers of
its answer.

The headers are those of draft-ietf-httpapi-ratelimit-headers: in RateLimit-Policy `q` items for
every `w` seconds; in RateLimit `r` items that may pass now, which is more than `q` while the burst
is not used up, and `t` seconds until the bucket is full again. The draft has no word for a bucket's
size; r of a full one is it.
"""

import ipaddress
import math
from collections.abc import Callable, Sequence

from app.bootstrap import Gateway
from app.errors import (
    CommitUnknown,
    GatewayError,
    KeyNotConfigured,
    QueueFull,
    RateLimited,
    StorageUnavailable,
)
from app.http.request import Context
from app.limits.buckets import Decision, Limit, RatePolicy
from app.model import Caller

LOCKED_OUT = "Too many failed authentications from this address."
# Errors of which the caller is not the cause
NOTHING_TAKEN = (StorageUnavailable, QueueFull, KeyNotConfigured)
# In the order of the limits of a RatePolicy
WHOSE = ("this key's limit", "the limit that all callers of the app share")


async def take(
    gateway: Gateway, context: Context, caller: Caller, count: int, *, lends: bool = False
) -> None:
    """Take `count` items from the buckets of the caller and of the app that the call is about, or
    nothing from either. `lends`: a call that is larger than a bucket passes where one item would,
    and the bucket is in debt then. Raises RateLimited.
    """
    policy = gateway.policies.policy_for(caller, context.app)
    limits = policy.lending if lends else policy.limits
    limiter = gateway.limits
    decision = limiter.take_now(limits, count) or await limiter.take(limits, count)
    context.rate_headers = (
        policy.header,
        (b"ratelimit", _state(decision.limits, decision.deficits)),
    )
    if not decision.allowed:
        raise _refusal(limits, decision, count)


async def give_back(
    gateway: Gateway, context: Context, caller: Caller, count: int, error: GatewayError
) -> None:
    """Give back all but one of the items that a call took which was then refused whole, where
    nothing of it was accepted for certain and its caller is not the cause: it is to be sent
    again.
    """
    sure = isinstance(error, NOTHING_TAKEN) and not isinstance(error, CommitUnknown)
    if count <= 1 or not sure or context.recorded:
        return
    policy = gateway.policies.policy_for(caller, context.app)
    decision = await gateway.limits.give(policy.limits, count - 1)
    context.rate_headers = (
        policy.header,
        (b"ratelimit", _state(decision.limits, decision.deficits)),
    )


async def charge_unread(gateway: Gateway, context: Context) -> None:
    """Take an item of the caller whose key was seen, for a call that is refused since the gateway
    holds too much to read it. Raises RateLimited.
    """
    context.overloaded = True
    if context.caller is not None:
        await take(gateway, context, context.caller, 1)


async def refuse_spent(
    gateway: Gateway,
    context: Context,
    caller: Caller,
    count: int = 1,
    *,
    lends: bool = False,
    ask: bool = True,
) -> None:
    """Take nothing, and refuse a call for which `count` items would not pass, before its body is
    read or judged. `ask`: False where another server's answer is not worth waiting for: the call is
    limited later all the same. Raises RateLimited.
    """
    policy = _policy(gateway, context, caller)
    limits = policy.lending if lends else policy.limits
    decision = await _look(gateway, limits, ask=ask)
    if decision is not None and not decision.fits(count):
        context.rate_headers = (
            policy.header,
            (b"ratelimit", _state(decision.limits, decision.deficits)),
        )
        raise _refusal(limits, decision, count)


async def room(
    gateway: Gateway, context: Context, caller: Caller, *, lends: bool = False, ask: bool = True
) -> Callable[[int], bool]:
    """Take nothing, and return what says whether so many items would pass now."""
    policy = _policy(gateway, context, caller)
    decision = await _look(gateway, policy.lending if lends else policy.limits, ask=ask)
    return _anything if decision is None else decision.fits


def _policy(gateway: Gateway, context: Context, caller: Caller) -> RatePolicy:
    """Return the limits of a call whose app may not be known yet."""
    return gateway.policies.policy_for(caller, context.app or gateway.apps.implied(caller.apps))


async def _look(gateway: Gateway, limits: Sequence[Limit], *, ask: bool) -> Decision | None:
    """Return how the buckets are now; None where that takes asking, and nobody is to be asked."""
    decision = gateway.limits.take_now(limits, 0)
    return await gateway.limits.take(limits, 0) if decision is None and ask else decision


def _anything(count: int) -> bool:
    return True


async def refuse_locked_out(gateway: Gateway, address: str) -> None:
    """Take nothing, and refuse an address whose next failed authentication would be one too many.
    Raises RateLimited."""
    decision = await gateway.limits.take((_failures(gateway, address),), 0)
    if not decision.limits[0].fits(decision.deficits[0], 1):
        raise RateLimited(LOCKED_OUT, decision.wait(1))


async def count_failure(gateway: Gateway, address: str) -> None:
    """Count a failed authentication of an address. Raises RateLimited where it has failed too
    often.
    """
    decision = await gateway.limits.take((_failures(gateway, address),), 1)
    if not decision.allowed:
        raise RateLimited(LOCKED_OUT, decision.wait(1))


def _failures(gateway: Gateway, address: str) -> Limit:
    per_minute = gateway.settings.gateway_failed_auth_per_minute
    return Limit(f"address:{network(address)}", per_minute / 60, per_minute, per_minute)


def network(address: str) -> str:
    """What counts as one address: of IPv6 the /64, since that is what a single host is given."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:  # no IP: a Unix socket, or a proxy's own word
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(found) >> 64 << 64, 64)))


def _state(limits: Sequence[Limit], lacks: Sequence[float]) -> bytes:
    """What is left by the limits that are in force, which are less than the policy while Valkey is
    away.
    """
    limit, lack = limits[0], lacks[0]
    state = b'"caller";r=%d;t=%d' % (limit.remaining(lack), math.ceil(lack / limit.rate))
    if len(limits) > 1:
        limit, lack = limits[1], lacks[1]
        state += b', "app";r=%d;t=%d' % (limit.remaining(lack), math.ceil(lack / limit.rate))
    return state


def _refusal(limits: Sequence[Limit], decision: Decision, count: int) -> RateLimited:
    """Of the limit that keeps the call waiting longest."""
    waits = [
        limit.wait(lacks, count)
        for limit, lacks in zip(decision.limits, decision.deficits, strict=True)
    ]
    at = waits.index(max(waits))
    limit, whose, items = limits[at], WHOSE[at], f"{count} item{'s' if count != 1 else ''}"
    if math.isinf(waits[at]):
        # When a part that is as large as can be may pass
        first = decision.limits[at].full_in(decision.deficits[at])
        return RateLimited(
            f"{items} never pass together: {whose} lets {limit.whole} pass at once. Split them.",
            first,
        )
    return RateLimited(f"{items} would exceed {whose} of {limit.rate} a second.", waits[at])
