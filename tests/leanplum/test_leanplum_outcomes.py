"""Warnings of Leanplum's are counted by a bounded label, never by their text (fact sheet §4,
§9).
"""

import pytest

from app.leanplum.outcomes import WARNING_LABELS, label_of_entry, label_of_outcome, label_of_text
from app.model import ConfigRefused, Done, Ignored, ItemRefused, Outcome, Trouble

KNOWN = {
    "User not found; request skipped.": "user-not-found",
    "Message entity not found": "message-not-found",
    "Past event detected (731 days ago). Rewriting timestamp.": "past-event",
    "Device clock skew detected (5 days behind). Rewriting timestamp.": "clock-skew",
    "Anomaly detected: time skew. User will be excluded from analytics.": "anomaly",
}
VARIATIONS = {
    "USER NOT FOUND; REQUEST SKIPPED.": "user-not-found",
    "User not found": "user-not-found",
    "Past event detected (1 day ago)": "past-event",
    "Device clock skew detected (900 days ahead). Rewriting timestamp.": "clock-skew",
    "Anomalous event; user excluded": "anomaly",
    "Timestamp was rewritten": "time-rewritten",
    "Rewriting timestamp.": "time-rewritten",
    "Message not found.": "message-not-found",
    "Campaign not found": "not-found",
    "Request skipped.": "skipped",
    "Event ignored: the user has no active session.": "ignored",
    "": "other",
    "(no message)": "other",
    "Something new about ann@example.com": "other",
    "Проверка": "other",
}


@pytest.mark.parametrize(("text", "label"), (KNOWN | VARIATIONS).items())
def test_a_text_has_a_label_of_the_fixed_set(text: str, label: str) -> None:
    assert label_of_text(text) == label
    assert label in WARNING_LABELS


@pytest.mark.parametrize(
    ("outcome", "label"),
    [
        (Done(), None),
        (Done("Rewriting timestamp."), "time-rewritten"),
        (Ignored("User not found; request skipped."), "user-not-found"),
        (Ignored("No open session.", by_field=True), "ignored"),
        (Ignored("User not found", is_error=True), None),
        (ItemRefused("User not found"), None),
        (ConfigRefused("App not found"), None),
        (Trouble("skipped"), None),
    ],
)
def test_only_an_item_with_a_warning_has_one(outcome: Outcome, label: str | None) -> None:
    assert label_of_outcome(outcome) == label


@pytest.mark.parametrize(
    ("entry", "label"),
    [
        ({"success": True}, None),
        (
            {"success": True, "warning": {"message": "User not found; request skipped."}},
            "user-not-found",
        ),
        ({"success": True, "warning": "Message entity not found"}, "message-not-found"),
        ({"success": True, "warning": {}}, "other"),
        ({"success": True, "ignored": True}, "ignored"),
        ({"success": True, "ignored": True, "warning": {"message": "No open session."}}, "ignored"),
        ({"success": True, "isOffline": False, "warning": {"message": "Something new"}}, "other"),
        ({"success": False, "warning": {"message": "User not found"}}, None),
        ({"success": True, "warning": None}, None),
    ],
)
def test_an_entry_of_an_answer_is_labelled_as_its_item_would_be(
    entry: dict[str, object], label: str | None
) -> None:
    assert label_of_entry(entry) == label
