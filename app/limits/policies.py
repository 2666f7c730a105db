"""Which limits a call has: its caller's, and its app's where that has one."""

from typing import NamedTuple

from app.limits.bucket import Limit
from app.model import App, Caller

MOST_KNOWN = 10_000


class Policy(NamedTuple):
    """The limits of the calls of one caller about one app, and how a header tells them. `lending`:
    the same limits, for clients that can't split a batch.
    """

    caller: Caller
    app: App | None
    limits: tuple[Limit, ...]
    lending: tuple[Limit, ...]
    header: tuple[bytes, bytes]


class Policies:
    """What a key has not of its own is the gateway's; a key or an app that has a rate alone may
    save up as many seconds of it as the gateway's callers may of theirs.
    """

    def __init__(self, rate: int, burst: int) -> None:
        self._rate, self._burst = rate, burst
        self._known: dict[tuple[str, str], Policy] = {}

    def of(self, caller: Caller, app: App | None) -> Policy:
        """As the key and the app are now: whoever changes one makes it anew."""
        key = (caller.key_id, "" if app is None else app.name)
        known = self._known.get(key)
        if known is None or known.caller is not caller or known.app is not app:
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            known = self._known[key] = self._made(caller, app)
        return known

    def _made(self, caller: Caller, app: App | None) -> Policy:
        rate = caller.rate_per_second or self._rate
        burst = caller.rate_burst or self._saved_up(rate)
        limits = [Limit(f"caller:{caller.key_id}", rate, burst, burst)]
        header = b'"caller";q=%d;w=1' % rate
        if app is not None and app.rate_per_second is not None:
            burst = app.rate_burst or self._saved_up(app.rate_per_second)
            limits.append(Limit(f"app:{app.name}", app.rate_per_second, burst, burst))
            header += b', "app";q=%d;w=1' % app.rate_per_second
        lending = tuple(limit._replace(lends=True) for limit in limits)
        return Policy(caller, app, tuple(limits), lending, (b"ratelimit-policy", header))

    def _saved_up(self, rate: int) -> int:
        return max(1, rate * self._burst // self._rate)
