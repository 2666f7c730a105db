"""The states of delivery by app, as each deliverer stores them when it renews its leases.

So every process can tell why an item waits, whichever deliverer has its lane. A state is at most as
old as the renewal before (`RENEW_SECONDS` of the deliverer); a change of the circuit is stored at
once.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import orjson
from sqlalchemy import Connection

from app import ids
from app.clock import now_ms
from app.database.driver import DIALECTS, read_rows

OWNERS = "SELECT shard, owner FROM leases"
OF_ALL = "SELECT id, states FROM deliverers WHERE expires_at >= ?"


@dataclass(frozen=True, slots=True)
class DeliveryState:
    """The state of an app's delivery by one deliverer. Times are in milliseconds.

    `state` is that of the circuit (closed, open, held), `since` its beginning. `limited_since`:
    since when items are ready to be sent and the limits of calls (calls a second, calls in flight)
    allow no more; None if they are not. `paused_until`: Leanplum asked for no calls before.
    """

    state: str = "closed"
    since: int = 0
    calls_per_second: float = 0.0
    limited_since: int | None = None
    paused_until: int | None = None


def render(states: Mapping[str, DeliveryState]) -> str:
    """Return the states by app as they are stored."""
    return orjson.dumps({app: asdict(state) for app, state in states.items()}).decode()


def parse(text: str | None) -> dict[str, DeliveryState]:
    """Return the stored states by app."""
    stored = orjson.loads(text) if text else {}
    return {app: DeliveryState(**fields) for app, fields in stored.items()}


def of_lanes(connection: Connection, app: str, lanes: Iterable[int]) -> dict[int, DeliveryState]:
    """Return for each lane the state of the deliverer that has it; lanes of none are left out."""
    states = of_all(connection)
    owners = read_rows(connection, "shard, owner", OWNERS, ())
    by_shard = {shard: states.get(owner) for shard, owner in owners}
    owned = {lane: by_shard.get(ids.shard(lane)) for lane in lanes}
    return {
        lane: of_apps.get(app, DeliveryState())
        for lane, of_apps in owned.items()
        if of_apps is not None
    }


def of_all(connection: Connection) -> dict[str, dict[str, DeliveryState]]:
    """Return the states of all live deliverers, by deliverer and app."""
    statement = DIALECTS[connection.dialect.name].sql(OF_ALL)
    rows = connection.exec_driver_sql(statement, (_now(connection),))
    return {owner: parse(states) for owner, states in rows}


def _now(connection: Connection) -> int:
    """Return the time by which leases are judged."""
    clock = DIALECTS[connection.dialect.name].clock
    return now_ms() if clock is None else int(connection.exec_driver_sql(clock).scalar_one())
