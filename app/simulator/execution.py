"""The execution of one action: from its arguments to its entry in the response."""

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from app.simulator.access import check_action_key
from app.simulator.actions.context import (
    ActionContext,
    Redirected,
    Refused,
    Skipped,
    UserActionContext,
)
from app.simulator.actions.table import ACTIONS, Action, ContentAction, UserAction
from app.simulator.app_state import CallContext
from app.simulator.arguments import number, text
from app.simulator.config import ClientKeyKind, Texts
from app.simulator.profiles import User
from app.simulator.world import World, action_identity

DAY = 86_400.0
MAX_AGE = 365 * DAY


class EffectiveTime(NamedTuple):
    """The time to record in epoch seconds, and a warning if it differs from the time sent."""

    time: float
    warning: str | None = None


def effective_time(
    sent: float | None, *, request_time: float, now: float, past_rule: bool, texts: Texts
) -> EffectiveTime:
    """Return the time of an action (fact sheet §5); all times are in epoch seconds.

    A time over 365 days before the request becomes `now`, if the action has the `past_rule` (just
    365 days passes). A request's own time is the sender's clock: its difference to the server's is
    added to every time, behind or ahead (§12.2). Only a clock that is 24 h or more behind causes a
    warning (§5); no text is known for a clock that is ahead.
    """
    if sent is None:
        return EffectiveTime(now)
    age = request_time - sent
    if past_rule and age > MAX_AGE:
        return EffectiveTime(now, texts.past_event.format(days=int(age // DAY)))
    behind = now - request_time
    warning = texts.clock_skew.format(days=int(behind // DAY)) if behind >= DAY else None
    return EffectiveTime(sent + behind, warning)


@dataclass(frozen=True)
class ActionOutcome:
    """The entry of an action, and the HTTP status or redirect if it is the call's only action."""

    entry: dict[str, Any]
    status: int = 200
    location: str | None = None


@dataclass(frozen=True)
class ActionExecutor:
    """The executor for the actions of one call, which share key and clock."""

    world: World
    key: ClientKeyKind
    now: float
    request_time: float
    dev_mode: bool = False
    call: CallContext = field(default_factory=CallContext)

    def execute(self, item: dict[str, Any]) -> ActionOutcome:
        """Execute one action and return its outcome, also when it is refused."""
        try:
            outcome = ActionOutcome({"success": True, **self._apply_once(item)})
        except Skipped as skipped:
            warning = {"message": skipped.warning}
            outcome = ActionOutcome({"success": True, "warning": warning, **skipped.extra})
        except Redirected as redirected:
            outcome = ActionOutcome({"success": True}, location=redirected.location)
        except Refused as refused:
            error = {"message": refused.message}
            outcome = ActionOutcome({"success": False, "error": error}, refused.status)
        return _add_req_id(item, outcome)

    def pretend(self, item: dict[str, Any]) -> ActionOutcome:
        """Return the outcome of a successful action, without executing it."""
        return _add_req_id(item, ActionOutcome({"success": True}))

    def _apply_once(self, item: dict[str, Any]) -> dict[str, Any]:
        """Apply an action unless it is a repeat, and return what its entry has beside `success`."""
        action = self._check_action(item)
        effective = self._effective_time(item, action)
        identity = action_identity(item)
        if self.world.count_repeat(identity) and self.world.config.deduplicate:
            return {}
        extra = self._call_handler(item, action, effective.time)
        self.world.record_applied(identity)
        if effective.warning:
            return {"warning": {"message": effective.warning}, **extra}
        return extra

    def _check_action(self, item: dict[str, Any]) -> Action:
        texts, name = self.world.config.texts, text(item.get("action"))
        action = ACTIONS.get(name)
        if action is None:
            raise Refused(texts.unknown_action.format(name=name), 400)
        check_action_key(action.key, self.key, item, texts, dev_mode=self.dev_mode)
        if action.alone and not self.call.alone:
            raise Refused(texts.not_alone.format(name=name), 400)
        for required in action.required:
            if item.get(required) is None:
                raise Refused(texts.missing.format(name=required), 400)
        return action

    def _effective_time(self, item: dict[str, Any], action: Action) -> EffectiveTime:
        texts, given = self.world.config.texts, item.get("time")
        sent = None if given in (None, "") else number(given)
        if sent is None and given not in (None, ""):
            raise Refused(texts.invalid.format(name="time"), 400)
        past_rule = isinstance(action, UserAction) and action.past_rule
        return effective_time(
            sent, request_time=self.request_time, now=self.now, past_rule=past_rule, texts=texts
        )

    def _call_handler(self, item: dict[str, Any], action: Action, time: float) -> dict[str, Any]:
        common = (self.world, item, self.now, time, self.call, self._execute_row)
        if isinstance(action, ContentAction):
            return action.handler(ActionContext(*common))
        user = self._user(item, action)
        device_id = text(item.get("deviceId"))
        device = self.world.link(device_id, user) if device_id else None
        return action.handler(UserActionContext(*common, user, device))

    def _execute_row(self, item: dict[str, Any]) -> dict[str, Any]:
        """Execute a row of a CSV job: its development key allows production actions too (I)."""
        executor = replace(self, dev_mode=True, call=replace(self.call, alone=False))
        return executor.execute(item).entry

    def _user(self, item: dict[str, Any], action: UserAction) -> User:
        texts = self.world.config.texts
        user_id = self.world.user_id(text(item.get("userId")), text(item.get("deviceId")))
        if not user_id:
            raise Refused(texts.no_user, 404)
        user = self.world.find(user_id, self.now, create=self._creates_user(item, action))
        if user is None:
            raise Skipped(texts.user_not_found)
        if user.blocked and not action.for_blocked:
            raise Refused(texts.blocked, 451)
        return user

    def _creates_user(self, item: dict[str, Any], action: UserAction) -> bool:
        """Read `createDisposition`; its default depends on the action (fact sheet §3)."""
        disposition = text(item.get("createDisposition"))
        if disposition not in ("", "CreateIfNeeded", "CreateNever"):
            raise Refused(self.world.config.texts.invalid.format(name="createDisposition"), 400)
        if disposition:
            return disposition == "CreateIfNeeded"
        return action.creates_user


def _add_req_id(item: dict[str, Any], outcome: ActionOutcome) -> ActionOutcome:
    """Add the action's own `reqId` to its entry; SDKs match by it (fact sheet §4)."""
    if item.get("reqId"):
        outcome.entry["reqId"] = item["reqId"]
    return outcome
