"""Dead letters that are encrypted with a missing key, over HTTP and by command: nothing fails, and
nothing leaks.
"""

import base64
import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from app.api.dead_letters import DISCARD, LIST, REPLAY
from app.cli import dead_letters
from app.clock import now_ms
from app.encryption import BodyCipher, answer_context, body_context
from app.outbox.dead_letters import DeadLetterFilter
from app.settings import Settings
from tests.support.gateway import CANARY, Talk

HERE = f"b:{base64.b64encode(bytes([2] * 32)).decode()}"
ELSEWHERE = BodyCipher({"a": bytes([1] * 32)}, "a")
IDS = ["first", "second", "third"]


@pytest.fixture
def talk(start: Callable[..., Talk]) -> Talk:
    """A gateway with three dead letters, of which the second is encrypted with a key that it does
    not have.
    """
    talk = start(gateway_data_key=HERE)
    body = {"userId": "ann", "event": "E", "info": CANARY}
    talk.batch([{"action": "track", "id": item_id, **body} for item_id in IDS])
    (seq,) = talk.rows("SELECT seq FROM items WHERE id = 'second'")[0]
    sealed = ELSEWHERE.encrypt(CANARY, body_context("default", "track", seq, "uann"))
    said = ELSEWHERE.encrypt(
        f'{{"success":false,"error":"Bad {CANARY}"}}', answer_context("default", seq)
    )
    with closing(sqlite3.connect(talk.path)) as connection:
        dead = "UPDATE items SET status = 'rejected', settled_at = ?, attempts = 1, leanplum = ?"
        connection.execute(dead, (now_ms(), '{"success":false,"error":"Bad."}'))
        change = "UPDATE items SET body = ?, leanplum = ? WHERE seq = ?"
        connection.execute(change, (sealed, said, seq))
        connection.execute("INSERT INTO data_keys VALUES ('a', ?)", (bytes(16),))
        connection.commit()
    return talk


def test_the_list_has_all_of_them_and_says_which_can_not_be_read(talk: Talk) -> None:
    answer = talk.get(LIST)
    assert answer.status_code == 200
    shown = answer.json()["deadLetters"]
    assert [one["id"] for one in shown] == IDS
    assert [one.get("leanplumUnreadable") for one in shown] == [None, True, None]
    assert ["leanplum" in one for one in shown] == [True, False, True]
    assert CANARY not in answer.text
    assert "~" not in answer.text


def test_its_receipt_and_the_answer_to_a_repeat_say_so_too(talk: Talk) -> None:
    receipt = talk.get("/v1/receipts/second")
    assert (receipt.status_code, receipt.json()["status"]) == (200, "rejected")
    assert (receipt.json()["leanplumUnreadable"], "leanplum" in receipt.json()) == (True, False)
    repeat = talk.event({"userId": "ann", "event": "E", "info": CANARY, "id": "second"})
    assert (repeat.status_code, repeat.json()["duplicate"]) == (200, True)
    assert repeat.json()["leanplumUnreadable"]


@pytest.mark.parametrize(("path", "done"), [(REPLAY, "replayed"), (DISCARD, "discarded")])
def test_it_is_replayed_and_discarded_with_the_others(talk: Talk, path: str, done: str) -> None:
    counted = talk.post(path, {"filter": {}, "dryRun": True})
    assert counted.json() == {"matched": 3, done: 0, "dryRun": True}
    answer = talk.post(path, {"filter": {}})
    assert (answer.status_code, answer.json()) == (200, {"matched": 3, done: 3, "dryRun": False})
    assert talk.get(LIST).json() == {"deadLetters": []}


@pytest.mark.parametrize("act", ["replay", "discard"])
def test_the_commands_need_no_key_either(
    talk: Talk, settings: Callable[..., Settings], act: Any
) -> None:
    given = settings(gateway_data_key=HERE)
    shown = list(dead_letters.find(given, None, DeadLetterFilter()))
    assert [(one["id"], one.get("leanplumUnreadable", False)) for one in shown] == [
        ("first", False),
        ("second", True),
        ("third", False),
    ]
    assert dead_letters.count_matching(given, None, DeadLetterFilter()) == 3
    assert len(dead_letters.apply(given, act, None, DeadLetterFilter())) == 3
    assert list(dead_letters.find(given, None, DeadLetterFilter())) == []
