"""No way around a privacy rule: each form of rule, over each place of each way in.

Each place has a number of its own. All that the gateway sends, answers, stores, logs, counts and
records is searched for these numbers. Without rules nearly all of them are found, so the search can
tell.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import orjson
import psycopg
import pytest
from sqlalchemy import make_url
from structlog.testing import capture_logs

from app.leanplum.actions import ACCEPTED_ACTIONS, ACTIONS
from app.simulator import SimulatorConfig
from tests.enrichment.ruled_places import (
    BASES,
    FIRST,
    MESSAGES,
    ODD,
    PLACES,
    SECRET,
    SIGN,
    Place,
    as_leanplums,
    as_text,
    body,
    message,
)
from tests.support.gateway import NDJSON, WIDE, Talk, make_settings
from tests.support.segment import post
from tests.support.simulator import Leanplum, delivering_to, simulated
from tests.support.wait import until

# Leanplum refuses this user's items: they stay in the database, as dead letters
REFUSED = "refused"
SEEN = re.compile(rb"4[0-9]{15}")
SINGLE = {
    "track": ("POST", "/v1/events"),
    "setUserAttributes": ("PATCH", "/v1/users/u"),
    "setDeviceAttributes": ("PATCH", "/v1/devices/d"),
    "setTrafficSourceInfo": ("PUT", "/v1/users/u/traffic-source"),
    "advance": ("POST", "/v1/users/u/states"),
    "sendMessage": ("POST", "/v1/messages/1/send"),
    "startCampaign": ("POST", "/v1/campaigns/1/start"),
    "start": ("POST", "/v1/users/u/sessions"),
    "setVars": ("PUT", "/v1/variables"),
    "deleteVars": ("DELETE", "/v1/variables"),
    "registerDevice": ("POST", "/v1/development-devices"),
    "addAndroidNotificationChannel": ("PUT", "/v1/notification-channels/c"),
    "exportData": ("POST", "/v1/exports/data"),
    "exportUsers": ("POST", "/v1/exports/users"),
    "exportReport": ("POST", "/v1/exports/report"),
    "addPostback": ("POST", "/v1/postbacks"),
}
IN_THE_PATH = {
    "downloadFile": ("GET", "/v1/files/{}"),
    "getExportResults": ("GET", "/v1/exports/{}"),
    "getMultiResults": ("GET", "/v1/imports/{}"),
    "deletePostback": ("DELETE", "/v1/postbacks/{}"),
    "deleteAndroidNotificationChannel": ("DELETE", "/v1/notification-channels/{}"),
}


@dataclass
class Attempt:
    """All that is sent under one form of rules: the numbers, by where each was put; and the
    answers.
    """

    talk: Talk
    numbers: Iterator[int]
    covers: Callable[[str], bool]
    # Of the places, those that are sent alone: the forms share them; in batches all are
    share: slice
    sent: dict[int, str] = field(default_factory=dict)
    answers: list[httpx.Response] = field(default_factory=list)

    def put(self, way: str, path: str) -> int:
        """A number for a place."""
        number = next(self.numbers)
        self.sent[number] = f"{way} {path}"
        return number

    def bodies(
        self, way: str, places: list[Place], *, alone: bool = False
    ) -> list[tuple[Place, dict[str, Any]]]:
        """The bodies of the places that the rules cover."""
        covered = [place for place in places if self.covers(place.path)]
        covered = covered[self.share] if alone else covered
        return [(one, body(one, self.put(f"{way} {one.action}", one.path))) for one in covered]

    def answered(self, answer: httpx.Response) -> None:
        assert answer.status_code < 500 or answer.status_code == 502, answer.text
        self.answers.append(answer)

    def taken(self, answer: httpx.Response, count: int) -> None:
        """A batch of so many, of which most must be taken: else nothing is seen of what becomes of
        them.
        """
        assert answer.json()["accepted"] > count / 2, answer.text
        self.answered(answer)


# --- the ways in ------------------------------------------------------------------------------------------------------


def rest(attempt: Attempt) -> None:
    talk = attempt.talk
    places = [one for one in PLACES if one.action in SINGLE]
    for place, fields in attempt.bodies("REST", places, alone=True):
        method, url = SINGLE[place.action]
        whom = {"userId": "u"} if place.action == "track" else {}
        shown = {
            name: one
            for name, one in fields.items()
            if name not in {"messageId", "campaignId", "id"}
        }
        attempt.answered(talk.post(url, {**whom, **shown}, method=method))
    for place in PLACES:
        if place.action in IN_THE_PATH and attempt.covers(place.path):
            method, url = IN_THE_PATH[place.action]
            text = f"{SIGN}{attempt.put(f'REST {place.action}', place.path)}"
            attempt.answered(talk.call(method, url.format(quote(text))))


def batches(attempt: Attempt) -> None:
    later = [place for place in PLACES if place.action in ACCEPTED_ACTIONS]
    items = [
        {"action": place.action, "userId": REFUSED, **fields}
        for place, fields in attempt.bodies("batch", later)
    ]
    attempt.taken(attempt.talk.batch(items), len(items))
    faulty = {"action": "track", "info": f"{SIGN}{attempt.put('faulty batch', 'info')}", "what": 1}
    items = [
        {"action": place.action, "userId": REFUSED, **fields}
        for place, fields in attempt.bodies("ndjson", later)
    ]
    lines = b"\n".join(map(orjson.dumps, [faulty, *items]))
    attempt.taken(attempt.talk.batch(lines, headers={"Content-Type": NDJSON}), len(items))


def imports(attempt: Attempt) -> None:
    talk, paths = (
        attempt.talk,
        ["params.secret", "userAttributes.secret", "userAttributeValuesToAdd.secret", "info"],
    )
    paths = [path for path in paths if attempt.covers(path)]
    for way in ("csv", "csv form"):
        rows = [["userId", "action", *paths]]
        for action in ("track", "setUserAttributes", "advance"):
            numbers = [attempt.put(f"{way} {action}", path) for path in paths]
            rows.append(["u", action, *(f"{SIGN}{number}" for number in numbers)])
            numbers = [attempt.put(f"{way} {action} number", path) for path in paths]
            rows.append(["u", "", *(f"{number / 1e15!r}e15" for number in numbers)])
        text = "\n".join(",".join(f'"{cell}"' for cell in row) for row in rows).encode()
        if way == "csv":
            headers = {"Content-Type": "text/csv"}
            attempt.answered(
                talk.call("POST", "/v1/imports?defaultAction=track", content=text, headers=headers)
            )
            keys = {
                "appId": "app_sandbox",
                "clientKey": talk.key,
                "action": "multi",
                "defaultAction": "track",
            }
            attempt.answered(
                talk.call(
                    "POST", f"/api?{urlencode(keys)}", key=None, content=text, headers=headers
                )
            )
        else:
            files = {"file": ("rows.csv", text, "text/csv")}
            attempt.answered(
                talk.call("POST", "/v1/imports", data={"defaultAction": "track"}, files=files)
            )
    if not attempt.covers(SECRET):
        return
    bucket = {"gcsBucket": "b", "file": f"{SIGN}{attempt.put('bucket', 'file')}"}
    attempt.answered(talk.post("/v1/imports", bucket))


def files(attempt: Attempt) -> None:
    if not attempt.covers("filename"):
        return
    for url, keys in (
        ("/v1/files", {}),
        ("/api", {"appId": "app_sandbox", "action": "uploadFile"}),
    ):
        told = [f"{SIGN}{attempt.put(f'upload {url}', 'filename')}" for _ in range(2)]
        fields = {**keys, "filename": told[0], "size": "1", "hash": "h"}
        key = {} if url != "/api" else {"clientKey": attempt.talk.key}
        files = {"file": (told[1], b"x", "text/plain")}
        options: dict[str, Any] = {"key": None} if key else {}
        attempt.answered(attempt.talk.call("POST", url, data=fields | key, files=files, **options))


def sdk(attempt: Attempt) -> None:
    talk = attempt.talk
    keys = {"appId": "app_sandbox", "clientKey": talk.key}
    known = [*PLACES, *ODD]

    def entries(
        way: str, places: list[Place] = known, *, alone: bool = False
    ) -> list[dict[str, Any]]:
        return [
            {"action": place.action, "userId": REFUSED, "deviceId": "d", **fields}
            for place, fields in attempt.bodies(way, places, alone=alone)
        ]

    def call(**options: Any) -> None:
        attempt.answered(talk.call("POST", "/api", key=None, **options))

    # What is a call of its own in a batch, too, takes the time of one.
    together = [place for place in known if not ACTIONS[place.action].alone]
    apart = [place for place in known if ACTIONS[place.action].alone]
    beside = {SECRET: f"{SIGN}{attempt.put('SDK call', SECRET)}"} if attempt.covers(SECRET) else {}
    call(json={**keys, **beside, "action": "multi", "data": entries("SDK batch", together)})
    call(json={**keys, "action": "multi", "data": entries("SDK batch, apart", apart, alone=True)})
    texts = [as_text(entry) for entry in entries("SDK batch of texts", together)]
    call(
        content=urlencode(
            {**keys, "action": "multi", "data": orjson.dumps({"data": texts}).decode()}
        )
    )
    for index, entry in enumerate(entries("SDK alone", alone=True)):
        if index % 2:
            call(content=urlencode({**keys, **as_text(entry)}))
        else:
            call(json={**keys, **entry})


def segment(attempt: Attempt) -> None:
    covered = [(kind, path) for kind, path in MESSAGES if attempt.covers(as_leanplums(kind, path))]
    messages = [
        message(attempt.put(f"segment {kind}", path), path, kind=kind) for kind, path in covered
    ]
    attempt.answered(post(attempt.talk, "batch", {"batch": messages}))
    for one in messages[attempt.share]:
        attempt.answered(post(attempt.talk, one["type"], one))


WAYS = (rest, batches, imports, files, sdk, segment)

# --- the forms of rules -----------------------------------------------------------------------------------------------

DIGITS = "4[0-9]{15}"
VALUE = f"values = '^(\\[?\"?{SIGN})?{DIGITS}'"
EXACTLY = f"values = '^({SIGN})?{DIGITS}$'"
# Fields that an item can't do without are left out where it would lose them.
KEYS = sorted({place.path for place in PLACES} - {"event", "state"} | {SECRET, "filename"})
KEYS = [key for key in KEYS if key not in {name for base in BASES.values() for name in base}]


def everything(path: str) -> bool:
    return True


def named(path: str) -> bool:
    """Whether a rule over KEYS is over a path."""
    return path in KEYS


def listed(names: list[str]) -> str:
    return f"[{', '.join(f'{name!r}' for name in names)}]"


ANY = f"actions = {listed(list(ACTIONS))}"
ENDS = f"paths = ['(^|\\.)({SECRET}|{'|'.join(key for key in KEYS if '.' not in key)}|deviceName|publisherId)$']"
Form = tuple[str, Callable[[str], bool]]


def rule(do: str, over: str, section: str = "") -> str:
    return f'[[{section}privacy]]\ndo = "{do}"\n{over}\n'


FORMS: dict[str, Form] = {
    "mask by value": (rule("mask", EXACTLY), everything),
    "drop by value": (rule("drop", EXACTLY), everything),
    "hash by value": (rule("hash", EXACTLY), everything),
    "mask by key": (rule("mask", f"keys = {listed(KEYS)}"), named),
    "drop by key": (rule("drop", f"keys = {listed(KEYS)}"), named),
    "hash by key": (rule("hash", f"keys = {listed(KEYS)}"), named),
    "mask by path": (rule("mask", ENDS), named),
    "drop by key and value": (rule("drop", f"keys = {listed(KEYS)}\n{EXACTLY}"), named),
    "mask by value, for each action": (rule("mask", f"{ANY}\n{EXACTLY}"), everything),
    "drop by value, for an app": (rule("drop", EXACTLY, "apps.default."), everything),
    "hash by value, for a caller": (rule("hash", EXACTLY, "callers.KEY_ID."), everything),
}
ON_POSTGRESQL = ("drop by value",)


# --- what is searched -------------------------------------------------------------------------------------------------


@dataclass
class Served:
    """A gateway, what stands before it, and its database."""

    talk: Talk
    leanplum: Leanplum
    file: Path
    url: str
    numbers: Iterator[int]

    def rules(self, text: str) -> None:
        """Put other rules in force."""
        key_id = self.talk.get("/v1/keys").json()["keys"][0]["id"]
        self.file.write_text(text.replace("KEY_ID", key_id))
        self.talk.do(self.talk.app.services.enrichment.refresh)

    def database(self) -> bytes:
        """All that is stored: the bytes of SQLite's files, or each row of each table of
        PostgreSQL.
        """
        if not self.url.startswith("postgresql"):
            return b"".join(path.read_bytes() for path in self.talk.path.parent.glob("g.db*"))
        plain = (
            make_url(self.url).set(drivername="postgresql").render_as_string(hide_password=False)
        )
        with closing(psycopg.connect(plain)) as connection:
            listing = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
            tables = [name for (name,) in connection.execute(listing)]
            rows = [
                str(connection.execute(f"SELECT t.*::text FROM {name} t").fetchall())
                for name in tables
            ]
        return "".join(rows).encode()

    def told(self) -> bytes:
        """All that operators and callers can ask for afterwards."""
        pages = (
            "/v1/receipts?limit=1000",
            "/v1/dead-letters?limit=1000",
            "/v1/audit?limit=1000",
            "/metrics",
        )
        return b"".join(
            self.talk.get(page).content for page in (*pages, "/v1/tracking-plan/violations")
        )


@pytest.fixture(scope="module")
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, migrated: Path
) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("ruled")
    file = folder / "enrichment.toml"
    file.write_text("")
    given: dict[str, Any] = WIDE | {
        "gateway_enrichment_file": file,
        "gateway_sdk_max_body_bytes": 10_000_000,
    }
    if request.param == "postgresql":
        given["gateway_database_url"] = request.getfixturevalue("postgresql_server").empty()
    with simulated(SimulatorConfig(migrate_state=True)) as leanplum:

        def settings(**more: Any) -> Any:
            return make_settings(folder, migrated, given | more)

        with delivering_to(leanplum, settings, folder / "g.db") as talk:
            yield Served(
                talk, leanplum, file, str(given.get("gateway_database_url", "sqlite")), count(FIRST)
            )


def found_in(data: bytes) -> set[int]:
    return {int(number) for number in SEEN.findall(data)}


def attempted(
    served: Served, covers: Callable[[str], bool], share: slice
) -> tuple[Attempt, dict[str, bytes]]:
    """Send everything, and return it with all that is to be searched, by where it is."""
    served.leanplum.forget()
    served.leanplum.fault(mode="success-false", userId=REFUSED, times=None)
    attempt = Attempt(served.talk, served.numbers, covers, share)
    with capture_logs() as lines:
        for way in WAYS:
            way(attempt)
        until(lambda: served.talk.app.services.outbox.queued == 0, 20)
    assert {line["event"] for line in lines} >= {"request.answered"}
    return attempt, {
        "Leanplum": orjson.dumps(served.leanplum.calls()),
        "answers": b"".join(
            answer.content + str(answer.headers).encode() for answer in attempt.answers
        ),
        "pages": served.told(),
        "log": str(lines).encode(),
        "database": served.database(),
    }


DATABASES = ("sqlite", "postgresql")


@pytest.mark.parametrize(
    ("served", "form"),
    [("sqlite", form) for form in FORMS] + [("postgresql", form) for form in ON_POSTGRESQL],
    indirect=["served"],
)
@pytest.mark.sampled(2)
def test_no_value_under_a_rule_leaves_a_trace_whatever_way_it_comes(
    served: Served, form: str
) -> None:
    text, covers = FORMS[form]
    served.rules(text)
    attempt, places = attempted(served, covers, slice(list(FORMS).index(form), None, len(FORMS)))
    leaks = {
        where: sorted(attempt.sent[number] for number in found_in(data) & attempt.sent.keys())
        for where, data in places.items()
    }
    assert leaks == {where: [] for where in leaks}
    taken = [answer for answer in attempt.answers if answer.status_code in {200, 202}]
    assert len(taken) > len(attempt.answers) / 2


@pytest.mark.parametrize("served", DATABASES, indirect=True)
def test_without_rules_the_search_finds_what_was_sent(served: Served) -> None:
    served.rules("")
    attempt, places = attempted(served, everything, slice(0, None, 10))
    found = found_in(places["Leanplum"] + places["database"])
    lost = sorted(where for number, where in attempt.sent.items() if number not in found)
    assert len(lost) < len(attempt.sent) / 10, lost
    assert len(found_in(places["database"]) & attempt.sent.keys()) > 50  # of the dead letters
