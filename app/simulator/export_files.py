"""The content of exported files: small, with what the simulated world knows; its form is inferred
(I).
"""

import csv
import io
import json
from collections.abc import Iterable
from typing import Any

from app.simulator.people import User


def json_lines(rows: Iterable[dict[str, Any]]) -> bytes:
    return "".join(f"{json.dumps(row, separators=(',', ':'))}\n" for row in rows).encode()


def data_line(user: User) -> dict[str, Any]:
    """A user with everything that was counted."""
    events = {name: tally.summary() for name, tally in user.events.items()}
    states = {name: tally.summary() for name, tally in user.states.items()}
    sessions = [session.shown() for session in user.sessions]
    return {**user_line(user), "events": events, "states": states, "sessions": sessions}


def user_line(user: User) -> dict[str, Any]:
    return {
        "userId": user.user_id,
        "created": user.created,
        "userAttributes": user.attributes | user.sets,
    }


def data_csv(users: Iterable[User]) -> bytes:
    """One row for each event of each user."""
    out = io.StringIO()
    rows = csv.writer(out)
    rows.writerow(("userId", "event", "count", "value"))
    for user in users:
        rows.writerows(
            (user.user_id, name, tally.count, tally.value) for name, tally in user.events.items()
        )
    return out.getvalue().encode()


def report_rows(users: Iterable[User], names: list[str]) -> list[dict[str, Any]]:
    """How often each event happened to all users together; with names, those events only."""
    counts: dict[str, int] = {}
    for user in users:
        for name, tally in user.events.items():
            counts[name] = counts.get(name, 0) + tally.count
    return [
        {"event": name, "count": count}
        for name, count in counts.items()
        if not names or name in names
    ]
