"""The nouns of the simulated world: users with their sessions and counters, and devices."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

OCCURRENCES_KEPT = 10_000
IDLE_SECONDS = 2 * 3600.0
PAUSED_SECONDS = 30 * 60.0


@dataclass
class Tally:
    """How often something happened to a user, what it was worth, and the latest occurrences one by
    one.
    """

    count: int = 0
    value: float | None = None
    """None until there is a value: an event that never had one is exported without (fact sheet §12.6)."""
    first_time: float | None = None
    last_time: float | None = None
    occurrences: deque[dict[str, Any]] = field(
        default_factory=lambda: deque(maxlen=OCCURRENCES_KEPT)
    )

    def add(self, time: float, value: float | None, details: dict[str, Any]) -> None:
        self.count += 1
        self.value = _sum(self.value, value)
        self.first_time = time if self.first_time is None else min(self.first_time, time)
        self.last_time = time if self.last_time is None else max(self.last_time, time)
        self.occurrences.append({"time": time, "value": value or 0.0, **details})

    def merge(self, other: "Tally") -> None:
        """Take over what another user's counter holds (login of an anonymous user)."""
        self.count += other.count
        self.value = _sum(self.value, other.value)
        known = (self.first_time, self.last_time, other.first_time, other.last_time)
        times = [time for time in known if time is not None]
        self.first_time, self.last_time = min(times, default=None), max(times, default=None)
        self.occurrences.extend(other.occurrences)

    def summary(self) -> dict[str, Any]:
        times = {"firstTime": self.first_time, "lastTime": self.last_time}
        value = {} if self.value is None else {"value": self.value}
        return {"count": self.count, **value, **times}

    def shown(self) -> dict[str, Any]:
        return {**self.summary(), "occurrences": list(self.occurrences)}


def _sum(known: float | None, added: float | None) -> float | None:
    return known if added is None else (known or 0.0) + added


@dataclass
class Session:
    """One session; `background` is not counted until it is resumed (fact sheet §3.1)."""

    started: float
    touched: float
    state: str = "open"

    def lapsed(self, now: float) -> bool:
        """Sessions end after 2 h without activity, after 30 min when paused (fact sheet §3.1)."""
        return now - self.touched > (PAUSED_SECONDS if self.state == "paused" else IDLE_SECONDS)

    def shown(self) -> dict[str, Any]:
        return {"started": self.started, "touched": self.touched, "state": self.state}


@dataclass
class Device:
    """One device and the user that it was last seen with."""

    device_id: str
    user_id: str
    attributes: dict[str, Any] = field(default_factory=dict)

    def shown(self) -> dict[str, Any]:
        return {"deviceId": self.device_id, "userId": self.user_id, "attributes": self.attributes}


@dataclass
class User:
    """All that the simulated app knows of one user."""

    user_id: str
    created: float
    attributes: dict[str, Any] = field(default_factory=dict)
    sets: dict[str, list[Any]] = field(default_factory=dict)
    events: dict[str, Tally] = field(default_factory=dict)
    states: dict[str, Tally] = field(default_factory=dict)
    sessions: list[Session] = field(default_factory=list)
    devices: list[str] = field(default_factory=list)
    nameless_devices: list[dict[str, Any]] = field(default_factory=list)
    """What was said of devices without an id (fact sheet §12.5)."""
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
        """The session that is going on, if any; one that lapsed ends here."""
        last = self.sessions[-1] if self.sessions else None
        if last is not None and last.state != "ended" and last.lapsed(now):
            last.state = "ended"
        return last if last is not None and last.state != "ended" else None

    def begin_session(self, now: float, *, background: bool = False) -> None:
        self.end_session(now)
        self.sessions.append(Session(now, now, "background" if background else "open"))
        if not background:
            self.count_session()

    def end_session(self, now: float) -> None:
        if current := self.session(now):
            current.touched, current.state = now, "ended"

    def count_session(self) -> None:
        self.profile["totalSessions"] = int(self.profile.get("totalSessions") or 0) + 1

    def mark_active(self, now: float) -> None:
        self.profile["lastActive"] = now
        current = self.session(now)
        if current is not None and current.state == "open":
            current.touched = now

    def shown(self) -> dict[str, Any]:
        """What /_simulator/users/{id} shows."""
        return {
            "userId": self.user_id,
            "created": self.created,
            "attributes": self.attributes,
            "sets": self.sets,
            "events": {name: tally.shown() for name, tally in self.events.items()},
            "states": {name: tally.shown() for name, tally in self.states.items()},
            "state": self.state,
            "statePaused": self.state_paused,
            "sessions": [session.shown() for session in self.sessions],
            "devices": self.devices,
            "profile": self.profile,
            "trafficSource": self.traffic_source,
            "unsubscribeCategories": self.unsubscribed_categories,
            "unsubscribeChannels": self.unsubscribed_channels,
            "messages": self.messages,
            "newsfeed": self.newsfeed,
            "blocked": self.blocked,
        }
