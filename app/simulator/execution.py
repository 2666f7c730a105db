"""One action, from its arguments to its entry in the answer, as the table of actions says."""

from dataclasses import dataclass, field, replace
from typing import Any

from app.simulator.access import check_action_key
from app.simulator.actions import (
    ACTIONS,
    Action,
    ContentAction,
    Moved,
    Refused,
    Skipped,
    Turn,
    UserAction,
    UserTurn,
)
from app.simulator.client_keys import Key
from app.simulator.people import User
from app.simulator.shelf import Around
from app.simulator.time_rules import Moment, settle
from app.simulator.values import number, text
from app.simulator.world import World, identity_of


@dataclass(frozen=True)
class Outcome:
    """The entry of one action, and the HTTP status, or the redirect, if it was the call's only
    one.
    """

    entry: dict[str, Any]
    status: int = 200
    location: str | None = None


@dataclass(frozen=True)
class Performer:
    """Does the actions of one call: the same key and the same clock for all of them."""

    world: World
    key: Key
    now: float
    request_time: float
    dev_mode: bool = False
    around: Around = field(default_factory=Around)

    def perform(self, item: dict[str, Any]) -> Outcome:
        """Do one action."""
        try:
            outcome = Outcome({"success": True, **self._done(item)})
        except Skipped as skipped:
            outcome = Outcome(
                {"success": True, "warning": {"message": skipped.warning}, **skipped.extra}
            )
        except Moved as moved:
            outcome = Outcome({"success": True}, location=moved.location)
        except Refused as refused:
            outcome = Outcome(
                {"success": False, "error": {"message": refused.message}}, refused.status
            )
        return _echoed(item, outcome)

    def passed_over(self, item: dict[str, Any]) -> Outcome:
        """What would be answered if the action had been done, and it isn't."""
        return _echoed(item, Outcome({"success": True}))

    def _done(self, item: dict[str, Any]) -> dict[str, Any]:
        action = self._action(item)
        moment = self._moment(item, action)
        identity = identity_of(item)
        if self.world.repeated(identity) and self.world.config.deduplicate:
            return {}
        extra = self._act(item, action, moment.time)
        self.world.note_applied(identity)
        return {"warning": {"message": moment.warning}, **extra} if moment.warning else extra

    def _action(self, item: dict[str, Any]) -> Action:
        texts, name = self.world.config.texts, text(item.get("action"))
        action = ACTIONS.get(name)
        if action is None:
            raise Refused(texts.unknown_action.format(name=name), 400)
        check_action_key(action.key, self.key, item, texts, dev_mode=self.dev_mode)
        if action.alone and not self.around.alone:
            raise Refused(texts.not_alone.format(name=name), 400)
        for required in action.required:
            if item.get(required) is None:
                raise Refused(texts.missing.format(name=required), 400)
        return action

    def _moment(self, item: dict[str, Any], action: Action) -> Moment:
        texts, given = self.world.config.texts, item.get("time")
        sent = None if given in (None, "") else number(given)
        if sent is None and given not in (None, ""):
            raise Refused(texts.invalid.format(name="time"), 400)
        past_rule = isinstance(action, UserAction) and action.past_rule
        return settle(
            sent, request_time=self.request_time, now=self.now, past_rule=past_rule, texts=texts
        )

    def _act(self, item: dict[str, Any], action: Action, time: float) -> dict[str, Any]:
        if isinstance(action, ContentAction):
            return action.handler(Turn(self.world, item, self.now, time, self.around, self._row))
        user = self._user(item, action)
        device_id = text(item.get("deviceId"))
        device = self.world.link(device_id, user) if device_id else None
        return action.handler(
            UserTurn(self.world, item, self.now, time, self.around, self._row, user, device)
        )

    def _row(self, item: dict[str, Any]) -> dict[str, Any]:
        """A row of a CSV job, which takes the development key, does production actions too (I)."""
        return (
            replace(self, dev_mode=True, around=replace(self.around, alone=False))
            .perform(item)
            .entry
        )

    def _user(self, item: dict[str, Any], action: UserAction) -> User:
        texts = self.world.config.texts
        user_id = self.world.user_id(text(item.get("userId")), text(item.get("deviceId")))
        if not user_id:
            raise Refused(texts.no_user, 404)
        user = self.world.find(user_id, self.now, create=self._creates(item, action))
        if user is None:
            raise Skipped(texts.user_not_found)
        if user.blocked and not action.for_blocked:
            raise Refused(texts.blocked, 451)
        return user

    def _creates(self, item: dict[str, Any], action: UserAction) -> bool:
        """`createDisposition`, or the action's default (fact sheet §3)."""
        given = text(item.get("createDisposition"))
        if given not in ("", "CreateIfNeeded", "CreateNever"):
            raise Refused(self.world.config.texts.invalid.format(name="createDisposition"), 400)
        return given == "CreateIfNeeded" if given else action.creates_user


def _echoed(item: dict[str, Any], outcome: Outcome) -> Outcome:
    """The outcome with the action's own `reqId`, which SDKs match by (fact sheet §4)."""
    if item.get("reqId"):
        outcome.entry["reqId"] = item["reqId"]
    return outcome
