"""User profiles with their sessions and counters, and devices."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

OCCURRENCES_KEPT = 10_000
IDLE_SECONDS = 2 * 3600.0
PAUSED_SECONDS = 30 * 60.0


@dataclass
class Tally:
    """The counter of an event or a state of one user: count, sum of values, latest occurrences."""

    count: int = 0
    value: float | None = None
    """None until an occurrence has a value; it is then absent from exports (fact sheet §12.6)."""
    first_time: float | None = None
    last_time: float | None = None
    occurrences: deque[dict[str, Any]] = field(
        default_factory=lambda: deque(maxlen=OCCURRENCES_KEPT)
    )

    def add(self, time: float, value: float | None, details: dict[str, Any]) -> None:
        """Count one occurrence; `time` is in epoch seconds, `details` are kept with it."""
        self.count += 1
        self.value = _sum(self.value, value)
        self.first_time = time if self.first_time is None else min(self.first_time, time)
        self.last_time = time if self.last_time is None else max(self.last_time, time)
        self.occurrences.append({"time": time, "value": value or 0.0, **details})

    def merge(self, other: "Tally") -> None:
        """Add the counter of another user, when an anonymous user logs in."""
        self.count += other.count
        self.value = _sum(self.value, other.value)
        bounds = (self.first_time, self.last_time, other.first_time, other.last_time)
        times = [time for time in bounds if time is not None]
        self.first_time, self.last_time = min(times, default=None), max(times, default=None)
        self.occurrences.extend(other.occurrences)

    def summary(self) -> dict[str, Any]:
        """Return the counter as exports show it."""
        times = {"firstTime": self.first_time, "lastTime": self.last_time}
        value = {} if self.value is None else {"value": self.value}
        return {"count": self.count, **value, **times}

    def as_json(self) -> dict[str, Any]:
        """Return the counter with its latest occurrences, as /_simulator shows it."""
        return {**self.summary(), "occurrences": list(self.occurrences)}


def _sum(total: float | None, added: float | None) -> float | None:
    return total if added is None else (total or 0.0) + added


@dataclass
class Session:
    """A session; one in the `background` is counted when it is resumed (fact sheet §3.1)."""

    started: float
    touched: float
    state: str = "open"

    def is_expired(self, now: float) -> bool:
        """Expire after 2 h without activity, or 30 min when paused (fact sheet §3.1)."""
        limit = PAUSED_SECONDS if self.state == "paused" else IDLE_SECONDS
        return now - self.touched > limit

    def as_json(self) -> dict[str, Any]:
        """Return the session as exports and /_simulator show it."""
        return {"started": self.started, "touched": self.touched, "state": self.state}


@dataclass
class Device:
    """A device and the user who was last seen on it."""

    device_id: str
    user_id: str
    attributes: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the device as /_simulator/devices/{id} shows it."""
        return {"deviceId": self.device_id, "userId": self.user_id, "attributes": self.attributes}


@dataclass
class User:
    """All data of one user."""

    user_id: str
    created: float
    attributes: dict[str, Any] = field(default_factory=dict)
    sets: dict[str, list[Any]] = field(default_factory=dict)
    events: dict[str, Tally] = field(default_factory=dict)
    states: dict[str, Tally] = field(default_factory=dict)
    sessions: list[Session] = field(default_factory=list)
    devices: list[str] = field(default_factory=list)
    nameless_devices: list[dict[str, Any]] = field(default_factory=list)
    """Fields of devices that were sent without an id (fact sheet §12.5)."""
    profile: dict[str, Any] = field(default_factory=dict)
    traffic_source: dict[str, Any] = field(default_factory=dict)
    unsubscribed_categories: list[str] = field(default_factory=list)
    unsubscribed_channels: list[str] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    newsfeed: dict[str, dict[str, Any]] = field(default_factory=dict)
    state: str | None = None
    state_paused: bool = False
    blocked: bool = False

    def session(self, now: float) -> Session | None:
        """Return the current session, if any; end it if it is expired."""
        if not self.sessions:
            return None
        last = self.sessions[-1]
        if last.state != "ended" and last.is_expired(now):
            last.state = "ended"
        return None if last.state == "ended" else last

    def begin_session(self, now: float, *, background: bool = False) -> None:
        """Start a session, after ending the current one."""
        self.end_session(now)
        self.sessions.append(Session(now, now, "background" if background else "open"))
        if not background:
            self.count_session()

    def end_session(self, now: float) -> None:
        """End the current session, if any."""
        if current := self.session(now):
            current.touched, current.state = now, "ended"

    def count_session(self) -> None:
        """Count a session in the profile."""
        self.profile["totalSessions"] = int(self.profile.get("totalSessions") or 0) + 1

    def mark_active(self, now: float) -> None:
        """Record activity, which also keeps an open session alive."""
        self.profile["lastActive"] = now
        current = self.session(now)
        if current is not None and current.state == "open":
            current.touched = now

    def as_json(self) -> dict[str, Any]:
        """Return the user as /_simulator/users/{id} shows them."""
        return {
            "userId": self.user_id,
            "created": self.created,
            "attributes": self.attributes,
            "sets": self.sets,
            "events": {name: tally.as_json() for name, tally in self.events.items()},
            "states": {name: tally.as_json() for name, tally in self.states.items()},
            "state": self.state,
            "statePaused": self.state_paused,
            "sessions": [session.as_json() for session in self.sessions],
            "devices": self.devices,
            "profile": self.profile,
            "trafficSource": self.traffic_source,
            "unsubscribeCategories": self.unsubscribed_categories,
            "unsubscribeChannels": self.unsubscribed_channels,
            "messages": self.messages,
            "newsfeed": self.newsfeed,
            "blocked": self.blocked,
        }
