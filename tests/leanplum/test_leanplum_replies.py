"""How Leanplum's answers are read: every case of the fact sheet, §4, with its messages verbatim."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.leanplum.outcomes import outcome_of
from app.leanplum.replies import Doubtful, SplitNeeded, read_reply
from app.model import ConfigRefused, Done, Ignored, ItemRefused, Outcome, Trouble

SENT = ["r-a", "r-b", "r-c"]
OK: dict[str, Any] = {"success": True}


def envelope(*entries: Any, **top: Any) -> bytes:
    return json.dumps({"response": entries, **top}).encode()


def error(message: str, **more: Any) -> dict[str, Any]:
    return {"success": False, "error": {"message": message}, **more}


def warned(message: str, **more: Any) -> dict[str, Any]:
    return {"success": True, "warning": {"message": message}, **more}


def outcomes(
    status: int, body: bytes, sent: list[str] = SENT, retry_after: str | None = None
) -> list[Outcome]:
    reply = read_reply(status, body, sent, retry_after)
    assert isinstance(reply, list)
    return reply


def kinds(found: list[Outcome]) -> list[type]:
    return [type(one) for one in found]


SKIPPED = "User not found; request skipped."
PAST = "Past event detected (731 days ago). Rewriting timestamp."
SKEW = "Device clock skew detected (5 days behind). Rewriting timestamp."
ANOMALY = "Anomaly detected: time skew. User will be excluded from analytics."
CONCURRENT = "Request failed due to concurrent requests to the same profile ID"
INVALID_TIME = "event 'eventName1' firstTime is invalid."
MISMATCH = "App endpoint configuration mismatch."
TO_THE_HOST = ": Leanplum redirects this app to api2.leanplum.com; check LEANPLUM_API_URL"
REDIRECT = {
    "apiHost": "api2.leanplum.com",
    "apiPath": "new-api",
    "devServerHost": "dev2.leanplum.com",
}


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (OK, Done()),
        ({"success": True, "isOffline": True}, Done()),
        ({"success": True, "result": "Message sent", "messagesSent": 1}, Done()),
        ({"success": True, "warning": None, "error": None}, Done()),
        (warned(SKIPPED), Ignored(SKIPPED)),
        (warned("Message entity not found"), Ignored("Message entity not found")),
        (warned(PAST), Done(PAST)),
        (warned(PAST, isOffline=True), Done(PAST)),
        (warned(SKEW), Done(SKEW)),
        (warned(ANOMALY), Done(ANOMALY)),
        (warned("Something new.", messagesSent=1), Done("Something new.")),
        (warned("Something new."), Ignored("Something new.")),
        (warned("No open session.", ignored=True), Ignored("No open session.")),
        ({"success": True, "ignored": True}, Ignored("ignored")),
        (error("Message not found."), ItemRefused("Message not found.")),
        (error(INVALID_TIME), ItemRefused(INVALID_TIME)),
        (error("Invalid app/user combination"), ItemRefused("Invalid app/user combination")),
        (
            error("You cannot export data older than 60 days"),
            ItemRefused("You cannot export data older than 60 days"),
        ),
        (error("No matching data found."), ItemRefused("No matching data found.")),
        ({"success": False}, ItemRefused("Leanplum gave no reason")),
        ({}, ItemRefused("Leanplum gave no reason")),
        (error("Bad") | OK, Ignored("Bad", is_error=True)),
        (error("Invalid access key: prod_…"), ConfigRefused("Invalid access key: prod_…")),
        (error("App not found: app_X"), ConfigRefused("App not found: app_X")),
        (
            error("Development mode requested but not permitted."),
            ConfigRefused("Development mode requested but not permitted."),
        ),
        (error(MISMATCH, **REDIRECT), ConfigRefused(MISMATCH.rstrip(".") + TO_THE_HOST)),
        (error("moved", **REDIRECT), ConfigRefused(f"moved{TO_THE_HOST}")),
        (error(CONCURRENT), Trouble(CONCURRENT, throttled=True)),
        (
            error("Per device rate limit exceeded."),
            Trouble("Per device rate limit exceeded.", throttled=True),
        ),
        (error("Too Many Requests."), Trouble("Too Many Requests.", throttled=True)),
    ],
)
def test_each_kind_of_entry_has_its_outcome(entry: dict[str, Any], expected: Outcome) -> None:
    assert outcome_of(entry) == expected
    assert outcomes(200, envelope(entry | {"reqId": "r-a"}), ["r-a"]) == [expected]


def test_a_bare_text_is_read_as_a_message_too() -> None:
    assert outcome_of({"success": False, "error": "No."}) == ItemRefused("No.")


def test_a_whole_good_answer_is_done_for_each() -> None:
    body = envelope(
        *({"success": True, "reqId": one} for one in SENT), migrateState={"sha256": "x"}
    )
    assert outcomes(200, body) == [Done(), Done(), Done()]


def test_without_reqids_the_entries_are_taken_by_position() -> None:
    assert kinds(outcomes(200, envelope(OK, error("Bad"), warned(SKIPPED)))) == [
        Done,
        ItemRefused,
        Ignored,
    ]


def test_with_reqids_the_entries_are_taken_by_them_whatever_their_order_and_case() -> None:
    body = envelope(OK | {"reqId": "R-C"}, error("Bad", reqId="r-a"), warned(SKIPPED, reqId="r-B"))
    assert kinds(outcomes(200, body)) == [ItemRefused, Ignored, Done]


@pytest.mark.parametrize("status", [200, 404])
def test_a_mixed_answer_is_read_item_by_item_whatever_its_status(status: int) -> None:
    body = envelope(OK, error("Invalid app/user combination"), OK)
    assert kinds(outcomes(status, body)) == [Done, ItemRefused, Done]


@pytest.mark.parametrize("status", [408, 429])
def test_being_throttled_is_told_apart_and_keeps_the_wish_of_when_to_come_back(status: int) -> None:
    found = outcomes(status, envelope(error("Too Many Requests.")), retry_after="7")
    assert found == [Trouble(f"HTTP {status}: Too Many Requests.", 7.0, throttled=True)] * 3


@pytest.mark.parametrize("status", [500, 502, 503, 504, 599])
@pytest.mark.parametrize("body", [b"", b"<html>500</html>", envelope(error("Oops"))])
def test_a_server_error_is_trouble_for_all_and_not_throttling(status: int, body: bytes) -> None:
    found = outcomes(status, body, retry_after="3")
    assert [
        (type(one), getattr(one, "throttled", None), getattr(one, "after", None)) for one in found
    ] == [(Trouble, False, 3.0)] * 3


@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [
        ("0", 0.0),
        ("12", 12.0),
        ("1.5", 1.5),
        ("0.25", 0.25),
        (".5", 0.5),
        (" 2.0 ", 2.0),
        ("999999", 3600.0),
        ("9" * 400, 3600.0),
        ("9" * 400 + ".5", 3600.0),
        ("-5", 0.0),
        ("-0.5", 0.0),
        ("soon", 0.0),
        ("nan", 0.0),
        ("inf", 0.0),
        ("1e3", 0.0),
        ("1_0", 0.0),
        ("٣", 0.0),
        ("3, 5", 0.0),
        ("", 0.0),
    ],
)
def test_retry_after_is_bounded_and_nonsense_is_no_wish(retry_after: str, seconds: float) -> None:
    (found,) = outcomes(503, b"", ["r-a"], retry_after)
    assert isinstance(found, Trouble) and found.after == seconds


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_never_followed_and_in_doubt_since_a_firewall_may_block_one_item_by_it(
    status: int,
) -> None:
    assert isinstance(read_reply(status, b"", SENT), Doubtful)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>Welcome</html>",
        b'{"response":[{"success":true',
        b"[]",
        b"null",
        b'{"response":null}',
        b'{"response":[1,2,3]}',
        envelope(),
        b"\xff\xfe",
        b"[" * 5000,
    ],
)
def test_a_200_that_cannot_be_read_is_trouble_for_all(body: bytes) -> None:
    assert kinds(outcomes(200, body)) == [Trouble] * 3


@pytest.mark.parametrize("count", [1, 2, 4, 9])
def test_another_number_of_entries_without_reqids_is_trouble_for_all(count: int) -> None:
    assert kinds(outcomes(200, envelope(*[OK] * count))) == [Trouble] * 3


def test_in_a_short_answer_with_reqids_only_the_untold_item_is_in_trouble() -> None:
    assert kinds(outcomes(200, envelope(OK | {"reqId": "r-a"}, OK | {"reqId": "r-c"}))) == [
        Done,
        Trouble,
        Done,
    ]


def test_a_long_answer_with_reqids_tells_each_item_its_own() -> None:
    body = envelope(*(OK | {"reqId": one} for one in ["x", *SENT]))
    assert kinds(outcomes(200, body)) == [Done] * 3


def test_an_entry_with_a_strange_reqid_is_nobodys() -> None:
    body = envelope(
        *(OK | {"reqId": one} for one in ["r-a", "00000000-0000-0000-0000-000000000000", "r-c"])
    )
    assert kinds(outcomes(200, body)) == [Done, Trouble, Done]


def test_one_refusal_of_our_key_in_a_200_concerns_every_item() -> None:
    assert (
        outcomes(200, envelope(error("Invalid access key")))
        == [ConfigRefused("Invalid access key")] * 3
    )


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (403, "Invalid access key"),
        (404, "App not found"),
        (403, "Development mode requested but not permitted"),
        (400, "Invalid access key given"),
        (404, MISMATCH),
    ],
)
@pytest.mark.parametrize("sent", [SENT, SENT[:1]])
def test_a_call_refused_for_our_configuration_is_no_items_fault(
    status: int, message: str, sent: list[str]
) -> None:
    assert kinds(outcomes(status, envelope(error(message)), sent)) == [ConfigRefused] * len(sent)


def test_a_401_of_leanplums_is_our_configurations_fault() -> None:
    assert kinds(outcomes(401, envelope(error("Who are you?")))) == [ConfigRefused] * 3


@pytest.mark.parametrize("status", [400, 404, 451, 413])
def test_a_refused_call_of_several_items_is_to_be_sent_in_halves(status: int) -> None:
    assert isinstance(read_reply(status, envelope(error("Bad request")), SENT), SplitNeeded)


def test_a_proxys_own_413_is_about_the_size_too() -> None:
    assert isinstance(read_reply(413, b"<html>Request Entity Too Large</html>", SENT), SplitNeeded)


FOREIGN = [
    b"",
    b"<html>Forbidden</html>",
    b"Forbidden",
    b"{}",
    b'{"error":"blocked"}',
    b'{"response":[]}',
    b"\xff",
]


@pytest.mark.parametrize("sent", [SENT, SENT[:1]])
@pytest.mark.parametrize("body", FOREIGN)
@pytest.mark.parametrize(
    "status", [400, 401, 402, 403, 404, 405, 406, 407, 409, 410, 415, 421, 422, 451, 494]
)
def test_a_refusal_that_is_not_in_leanplums_words_is_in_doubt(
    status: int, body: bytes, sent: list[str]
) -> None:
    """A proxy, or a wrong address, or a firewall that dislikes one item: the answer alone doesn't
    tell.
    """
    found = read_reply(status, body, sent)
    assert isinstance(found, Doubtful)
    assert found.reason.startswith(f"HTTP {status}")


@pytest.mark.parametrize("sent", [SENT, SENT[:1]])
@pytest.mark.parametrize(
    "message", ["Request not allowed", "Too many users", "invalid access key", "App is not found"]
)
@pytest.mark.parametrize("status", [402, 403, 405, 409, 422])
def test_a_refusal_in_words_that_nobody_knows_is_in_doubt(
    status: int, message: str, sent: list[str]
) -> None:
    assert read_reply(status, envelope(error(message)), sent) == Doubtful(
        f"HTTP {status}: {message}"
    )


@pytest.mark.parametrize("sent", [SENT, SENT[:1]])
def test_it_is_in_doubt_as_well_where_each_item_is_told_it(sent: list[str]) -> None:
    body = envelope(*(error("Request not allowed", reqId=one) for one in sent))
    assert read_reply(403, body, sent) == Doubtful("HTTP 403: Request not allowed")


def test_under_403_too_an_item_is_told_its_own_where_another_was_done() -> None:
    assert kinds(outcomes(403, envelope(OK, error("Bad"), OK))) == [Done, ItemRefused, Done]


@pytest.mark.parametrize("status", [400, 403, 404, 422])
@pytest.mark.parametrize("message", ["Rate limit exceeded", CONCURRENT, "Too Many Requests."])
def test_words_that_ask_for_fewer_calls_are_known_whatever_the_status(
    status: int, message: str
) -> None:
    found = outcomes(status, envelope(error(message)), retry_after="2.5")
    assert found == [Trouble(f"HTTP {status}: {message}", 2.5, throttled=True)] * 3


@pytest.mark.parametrize("status", [200, 202, 403])
def test_one_redirect_item_for_all_is_our_configurations_fault_in_whatever_words(
    status: int,
) -> None:
    assert kinds(outcomes(status, envelope(error("moved", **REDIRECT)))) == [ConfigRefused] * 3


# --- a 2xx with one refusal of a whole call ---

TEN = [f"r-{number}" for number in range(10)]


@pytest.mark.parametrize("more", [{}, {"reqId": None}, {"reqId": "of-the-call"}])
@pytest.mark.parametrize(
    "message", ["Rate limit exceeded", "Per device rate limit exceeded.", CONCURRENT]
)
def test_one_entry_that_asks_for_fewer_calls_throttles_all_and_loses_none(
    message: str, more: dict[str, Any]
) -> None:
    found = outcomes(200, envelope(error(message, **more)), TEN, retry_after="1.5")
    assert found == [Trouble(message, 1.5, throttled=True)] * 10


@pytest.mark.parametrize("more", [{}, {"reqId": None}, {"reqId": "of-the-call"}])
def test_one_entry_that_refuses_in_other_words_leaves_all_in_doubt(more: dict[str, Any]) -> None:
    assert read_reply(200, envelope(error("Daily quota spent", **more)), TEN) == Doubtful(
        "Daily quota spent"
    )
    assert read_reply(200, envelope(OK | {"error": {"message": "No"}} | more), TEN) == Doubtful(
        "No"
    )
    assert read_reply(200, envelope({"success": False} | more), TEN) == Doubtful(
        "Leanplum gave no reason"
    )


@pytest.mark.parametrize("entry", [OK, warned(SKIPPED), warned("Something new."), {}])
def test_one_entry_that_refuses_nothing_is_a_lost_answer(entry: dict[str, Any]) -> None:
    found = outcomes(200, envelope(entry), TEN)
    assert [(type(one), getattr(one, "lost", None)) for one in found] == [(Trouble, True)] * 10


def test_one_refusal_that_names_an_item_is_that_items_alone() -> None:
    found = outcomes(200, envelope(error("Bad", reqId="R-3")), TEN)
    assert found[3] == ItemRefused("Bad")
    assert [getattr(one, "lost", None) for one in found[:3] + found[4:]] == [True] * 9


def test_one_refusal_of_one_item_is_that_items_own() -> None:
    assert outcomes(200, envelope(error("Daily quota spent")), ["r-a"]) == [
        ItemRefused("Daily quota spent")
    ]


@pytest.mark.parametrize(
    ("status", "message"),
    [(400, "Bad request"), (404, "Message not found."), (451, "User is blocked.")],
)
def test_a_refused_call_of_one_item_is_that_items_fault(status: int, message: str) -> None:
    assert kinds(outcomes(status, envelope(error(message)), ["r-a"])) == [ItemRefused]


BODIES = st.binary(max_size=200) | st.lists(
    st.dictionaries(
        st.sampled_from(["success", "error", "warning", "reqId", "ignored", "apiHost", "result"]),
        st.none()
        | st.booleans()
        | st.integers()
        | st.text(max_size=9)
        | st.just({"message": "App not found"})
        | st.just({}),
    ),
    max_size=5,
).map(lambda entries: json.dumps({"response": entries}).encode())


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(100, 599), BODIES, st.integers(1, 4), st.none() | st.text(max_size=5))
def test_there_is_always_one_outcome_for_each_item_sent(
    status: int, body: bytes, count: int, after: str | None
) -> None:
    reply = read_reply(status, body, [f"r-{number}" for number in range(count)], after)
    if isinstance(reply, SplitNeeded):
        assert count > 1
    elif not isinstance(reply, Doubtful):
        assert len(reply) == count
