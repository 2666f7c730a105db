"""Bodies at rest and erasure with real processes, killed and started again, on SQLite and
PostgreSQL.
"""

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url, text

from app.database.engine import connect
from app.simulator import SimulatorConfig
from app.simulator.server import BackgroundServer
from tests.support.processes import (
    APP_ID,
    PRODUCTION_KEY,
    Process,
    delivering,
    ended,
    plan,
    requests,
    serving,
    values,
)
from tests.support.wait import until

A, B = (f"{name}:{base64.b64encode(bytes([ord(name)] * 32)).decode()}" for name in "ab")
VALUE = "canary-value-31c7"
DEVELOPMENT = {"LEANPLUM_DEVELOPMENT_KEY": "dev_sandbox"}


@pytest.fixture
def leanplum() -> Iterator[str]:
    with BackgroundServer(SimulatorConfig(app_id=APP_ID, production_key=PRODUCTION_KEY)) as server:
        yield server.url


def files(database: str) -> bytes:
    """All that the database has on the disk, its log included."""
    engine = connect(database)
    try:
        if engine.dialect.name == "sqlite":
            path = Path(str(make_url(database).database))
            found = path.parent.glob(f"{path.name}*")
        else:
            with engine.connect() as connection:
                connection.execute(text("CHECKPOINT"))
                folder = Path(connection.execute(text("SHOW data_directory")).scalar_one())
            found = (one for part in ("base", "pg_wal") for one in (folder / part).rglob("*"))
        return b"".join(map(content, [one for one in found if one.is_file()]))
    finally:
        engine.dispose()


def content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:  # a server may do away with a file meanwhile
        return b""


def count(database: str, table: str) -> int:
    engine = connect(database)
    try:
        with engine.connect() as connection:
            return int(connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())
    finally:
        engine.dispose()


def post(gateway: Process, value: int, canary: str) -> None:
    body = {"userId": "ann", "event": "E", "value": value, "info": canary, "id": f"e{value}"}
    assert gateway.call("POST", "/v1/events", json=body).status_code in {200, 202}


@pytest.mark.parametrize("key", [None, A])
def test_with_a_key_the_database_s_files_hold_no_value_and_without_one_they_do(
    tmp_path: Path, leanplum: str, database: str, key: str | None
) -> None:
    settings = {"GATEWAY_DATABASE_URL": database} | ({"GATEWAY_DATA_KEY": key} if key else {})
    canary = f"{VALUE}-{'sealed' if key else 'clear'}"
    with serving(tmp_path, leanplum, "--no-delivery", **settings) as gateway:
        for value in range(20):
            post(gateway, value, canary)
        gateway.kill()
        assert (canary.encode() in files(database)) == (key is None)
        said = b'"bodies.unencrypted"' if key is None else b'"gateway.key":"a"'
        assert said in gateway.output.read_bytes()


def test_keys_change_over_kills_with_a_queue_and_dead_letters_in_place_and_all_arrives_in_order(
    tmp_path: Path, leanplum: str, database: str
) -> None:
    steps = [None, A, f"{B},{A}", f"clear,{A},{B}", f"{A},{B}"]
    # On a server only its lease tells that a deliverer is gone: so much longer than a call may
    # take.
    settings = {"GATEWAY_DATABASE_URL": database, "GATEWAY_UPSTREAM_TIMEOUT_SECONDS": "1"}
    with serving(tmp_path, leanplum, **settings) as gateway:
        plan(leanplum, {"mode": "success-false", "message": "Bad.", "times": 1})
        assert gateway.event("bob", 0, Prefer="wait=10").json()["status"] == "rejected"
        gateway.words = ("--no-delivery",)
        for value, step in enumerate(steps):
            gateway.kill()
            gateway.settings |= {"GATEWAY_DATA_KEY": step} if step else {}
            gateway.start()
            post(gateway, value, VALUE)
            post(gateway, 0, VALUE)  # a repeat of what an earlier key has sealed
        gateway.kill()
        for wrong, told in (
            (A, 'the key "b" is missing'),
            (f"a:{B[2:]},{B}", '"a" is not the key'),
        ):
            refused = ended(
                tmp_path, "serve", "--port", "0", **gateway.settings | {"GATEWAY_DATA_KEY": wrong}
            )
            assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
            assert told in refused.stderr
        replayed = ended(tmp_path, "dead-letters", "replay", "--all", **gateway.settings)
        assert replayed.stdout.startswith("1 "), replayed.stderr
        gateway.words = ()
        gateway.start()
        until(
            lambda: (
                values(leanplum, "ann") == list(range(len(steps)))
                and values(leanplum, "bob") == [0]
            )
        )


def arrived(leanplum: str, user: str) -> list[str]:
    """The actions of a user that Leanplum was told, in order."""
    told = [call["args"] for call in requests(leanplum)]
    found = [
        one for args in told for one in (args["data"] if args["action"] == "multi" else [args])
    ]
    return [one["action"] for one in found if one["userId"] == user]


def test_while_other_processes_deliver_nothing_of_a_user_is_sent_after_the_deletion(
    tmp_path: Path, leanplum: str, database: str
) -> None:
    users = [f"u{number}" for number in range(12)]
    settings = {"GATEWAY_DATABASE_URL": database, **DEVELOPMENT}
    with (
        serving(tmp_path, leanplum, "--no-delivery", **settings) as gateway,
        delivering(gateway, "one"),
        delivering(gateway, "two"),
    ):
        plan(leanplum, {"mode": "slow", "delay": 0.4, "times": None})
        for value in range(3):
            items = [
                {"action": "track", "userId": user, "event": "E", "value": value} for user in users
            ]
            assert gateway.call("POST", "/v1/batch", json={"items": items}).json()[
                "accepted"
            ] == len(users)
        until(lambda: count(database, "attempts") > 0)
        items = [{"action": "track", "userId": user, "event": "E", "value": 3} for user in users]
        gateway.call("POST", "/v1/batch", json={"items": items})
        removed = 0
        for user in users[:6]:
            told = gateway.call("DELETE", f"/v1/users/{user}?fullErasure=true").json()["erased"]
            removed += told["waiting"] + told["inFlight"]
            assert gateway.event(user, 9).status_code == 403
        assert removed > 0
        until(lambda: all(arrived(leanplum, user)[-1:] == ["deleteUser"] for user in users[:6]))
        until(lambda: all(values(leanplum, user) == [0, 1, 2, 3] for user in users[6:]))
        until(lambda: count(database, "items WHERE settled_at IS NULL") == 0)
        assert all(
            arrived(leanplum, user).index("deleteUser") == len(arrived(leanplum, user)) - 1
            for user in users[:6]
        )


def test_an_erasure_outlives_a_kill_and_the_user_is_refused_after_it(
    tmp_path: Path, leanplum: str, database: str
) -> None:
    settings = {"GATEWAY_DATABASE_URL": database, **DEVELOPMENT}
    with serving(tmp_path, leanplum, "--no-delivery", **settings) as gateway:
        gateway.event("ann", 0)
        assert gateway.call("DELETE", "/v1/users/ann").json()["erased"]["waiting"] == 1
        gateway.kill()
        gateway.words = ()
        gateway.start()
        assert gateway.event("ann", 1).status_code == 403
        until(lambda: arrived(leanplum, "ann") == ["deleteUser"])
