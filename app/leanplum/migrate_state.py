"""The state of each app's migration, as Leanplum tells it beside its answers. SDKs compare its hash
(fact sheet §7).
"""

import re
from typing import Any

import orjson

STATE = re.compile(rb'"migrateState"\s*:\s*\{[^{}]*\}')


class MigrateStates:
    """The latest `migrateState` of each app, for answers that the gateway makes itself."""

    def __init__(self) -> None:
        self._states: dict[str, dict[str, Any]] = {}
        self._texts: dict[str, bytes] = {}

    def note(self, app: str, body: bytes) -> None:
        """Remember the state that an answer tells. An answer is parsed only where its text of the
        state is new.
        """
        found = STATE.search(body)
        if found is None or self._texts.get(app) == found.group():
            return
        try:
            answer = orjson.loads(body)
        except orjson.JSONDecodeError:
            return
        state = answer.get("migrateState") if isinstance(answer, dict) else None
        if isinstance(state, dict):
            self._states[app], self._texts[app] = state, found.group()

    def beside(self, app: str) -> dict[str, Any]:
        """Return what stands beside the entries of an answer about this app; nothing until Leanplum
        told it.
        """
        return {"migrateState": self._states[app]} if app in self._states else {}
