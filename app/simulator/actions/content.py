"""The app's content for reading: messages, A/B tests, variants, unsubscribe categories (fact sheet
§3.6).

`recent` is taken and changes nothing: all of the sandbox is recent (I). One draft is found only
with `includeDrafts`, which getMessage, getAbTest and getVariant take too (fact sheet §12.8); what
they answer without it is inferred (I).
"""

from typing import Any

from app.simulator.actions.handler import Extra, Refused, Turn
from app.simulator.sandbox import SandboxAbTest, SandboxMessage, SandboxVariant

CREATED = 1_700_000_000.0


def get_message(turn: Turn) -> Extra:
    message = turn.world.messages.get(turn.text("id"))
    if message is None or (message.draft and not _with_drafts(turn)):
        raise Refused(turn.texts.message_not_found, 404)
    return {"message": _message(message)}


def get_messages(turn: Turn) -> Extra:
    drafts = _with_drafts(turn)
    return {
        "messages": [
            _message(each) for each in turn.world.messages.values() if drafts or not each.draft
        ]
    }


def get_ab_test(turn: Turn) -> Extra:
    """How a missing A/B test is answered is not documented: as a missing message is (I)."""
    for test in turn.world.config.ab_tests:
        if str(test.id) == turn.text("id") and (not test.draft or _with_drafts(turn)):
            return {"abTest": _ab_test(test)}
    raise Refused(turn.texts.ab_test_not_found, 404)


def get_ab_tests(turn: Turn) -> Extra:
    drafts = _with_drafts(turn)
    return {
        "abTests": [
            _ab_test(each) for each in turn.world.config.ab_tests if drafts or not each.draft
        ]
    }


def get_variant(turn: Turn) -> Extra:
    for test in turn.world.config.ab_tests:
        if test.draft and not _with_drafts(turn):
            continue
        for variant in test.variants:
            if str(variant.id) == turn.text("id"):
                return {"variant": _variant(variant)}
    raise Refused(turn.texts.variant_not_found, 404)


def get_unsubscribe_categories(turn: Turn) -> Extra:
    known = turn.world.config.unsubscribe_categories
    return {
        "categories": [
            {"id": each.id, "name": each.name, "description": each.description} for each in known
        ]
    }


def _with_drafts(turn: Turn) -> bool:
    turn.flag("recent", default=True)
    return turn.flag("includeDrafts", default=False)


def _life(of: SandboxMessage | SandboxAbTest) -> dict[str, Any]:
    """What messages and A/B tests tell alike; the forms of state and times are not documented
    (I).
    """
    state = {"active": not of.draft, "state": "draft" if of.draft else "active"}
    times = {"created": CREATED, "updated": CREATED, "finished": None}
    return {"id": of.id, "name": of.name, **state, **times, "targetingSticky": False}


def _message(message: SandboxMessage) -> Extra:
    campaign = {"campaignID": message.id, "campaignName": message.name, "abTestIds": []}
    triggers: dict[str, Any] = {"messageLimits": {}, "localTriggers": [], "serverTriggers": []}
    return {
        **_life(message),
        "messageType": message.kind,
        "scheduledTime": None,
        **campaign,
        **triggers,
    }


def _ab_test(test: SandboxAbTest) -> Extra:
    variants = [_variant(each) for each in test.variants]
    return {**_life(test), "chosenVariant": None, "variants": variants, "details": {}}


def _variant(variant: SandboxVariant) -> Extra:
    shown = {"id": variant.id, "name": variant.name, "percent": variant.percent}
    return {**shown, "variables": list(variant.variables)}
