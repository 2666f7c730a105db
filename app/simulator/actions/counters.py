"""The profile counters that setUserAttributes sets or increments: `events` and `states` (fact sheet
§3.4).
"""

from typing import Any

from app.simulator.actions.handler import Refused, UserTurn
from app.simulator.people import Tally
from app.simulator.values import number

Counters = dict[str, dict[str, float]]

_FIELDS = ("count", "countIncrement", "value", "valueIncrement", "firstTime", "lastTime")


def checked_counters(turn: UserTurn, kind: str) -> Counters:
    """The counters of one kind, `event` or `state`; ISO times are refused at HTTP 200, as
    recorded.
    """
    return {
        name: _checked(turn, kind, name, given) for name, given in turn.mapping(f"{kind}s").items()
    }


def apply_counters(tallies: dict[str, Tally], counters: Counters) -> None:
    for name, given in counters.items():
        tally = tallies.setdefault(name, Tally())
        tally.count = int(given.get("count", tally.count) + given.get("countIncrement", 0))
        if "value" in given or "valueIncrement" in given:
            tally.value = given.get("value", tally.value or 0.0) + given.get("valueIncrement", 0.0)
        tally.first_time = given.get("firstTime", tally.first_time)
        tally.last_time = given.get("lastTime", tally.last_time)


def _checked(turn: UserTurn, kind: str, name: str, given: Any) -> dict[str, float]:
    if not isinstance(given, dict):
        raise turn.invalid(f"{kind}s")
    present = {field: number(given[field]) for field in _FIELDS if given.get(field) is not None}
    for field, value in present.items():
        if value is None:
            raise Refused(turn.texts.invalid_counter.format(kind=kind, name=name, field=field), 200)
    return {field: value for field, value in present.items() if value is not None}
