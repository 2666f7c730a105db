"""The app's content as the read-only key reads it (fact sheet §3.6)."""

from typing import Any

import pytest

from .client import Talk, message
from .simulated_app import App


def test_a_message_is_told_with_the_documented_fields(app: App) -> None:
    told = app.do("getMessage", id="1002")["message"]
    documented = {
        "id",
        "name",
        "active",
        "state",
        "created",
        "updated",
        "finished",
        "scheduledTime",
        "messageType",
    }
    documented |= {
        "campaignID",
        "campaignName",
        "abTestIds",
        "messageLimits",
        "localTriggers",
        "serverTriggers",
    }
    assert set(told) == {*documented, "targetingSticky"}
    assert (told["id"], told["messageType"], told["active"]) == (1002, "Push Notification", True)


@pytest.mark.parametrize(
    ("action", "field", "draft"),
    [("getMessages", "messages", 1005), ("getAbTests", "abTests", 2002)],
)
def test_drafts_are_told_when_they_are_asked_for(
    app: App, action: str, field: str, draft: int
) -> None:
    def ids(**args: Any) -> list[int]:
        return [each["id"] for each in app.do(action, recent="false", **args)[field]]

    assert draft not in ids()
    assert draft in ids(includeDrafts="true")


def test_an_ab_test_is_told_with_its_variants(app: App) -> None:
    told = app.do("getAbTest", id=2001)["abTest"]
    documented = {
        "id",
        "name",
        "active",
        "state",
        "created",
        "updated",
        "finished",
        "chosenVariant",
    }
    assert set(told) == {*documented, "targetingSticky", "variants", "details"}
    assert [variant["percent"] for variant in told["variants"]] == [50.0, 50.0]


def test_a_variant_is_told_with_its_variables(app: App) -> None:
    variant = {
        "id": 3002,
        "name": "Green",
        "percent": 50.0,
        "variables": [{"name": "c", "value": "green"}],
    }
    assert app.do("getVariant", id="3002") == {"success": True, "variant": variant}


@pytest.mark.parametrize("action", ["getMessage", "getAbTest", "getVariant"])
def test_content_that_does_not_exist_is_404(leanplum: Talk, action: str) -> None:
    answer = leanplum.call(action, "cro", id=9)
    assert answer.status_code == 404
    assert message(answer.json()["response"][0], "error").endswith("not found.")


def test_the_unsubscribe_categories_are_told(app: App) -> None:
    first = app.do("getUnsubscribeCategories")["categories"][0]
    assert first == {"id": 4001, "name": "Offers", "description": "Discounts and sales"}
