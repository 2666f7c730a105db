"""A call as it arrived: one action, or a multi of many; which users it touches, and its own
clock.
"""

from dataclasses import dataclass
from typing import Any

from app.simulator.actions import Refused
from app.simulator.config import Texts
from app.simulator.encoding import CSV_BODY, Received
from app.simulator.shelf import Around
from app.simulator.values import number, text, truthy
from app.simulator.world import World

SDK_CLIENTS = frozenset({"android", "ios", "js"})


@dataclass(frozen=True)
class Call:
    """The arguments of one HTTP call, and its actions: the arguments themselves, or the entries of
    `data`.

    A multi with `createJob`, or with a body of CSV, is one action, which makes a job (fact sheet
    §3.7, §12.4).
    """

    args: dict[str, Any]
    items: list[dict[str, Any]]
    multi: bool
    around: Around

    @classmethod
    def of(cls, received: Received, origin: str, texts: Texts) -> "Call":
        args = received.args
        makes_job = truthy(args.get("createJob")) or CSV_BODY in received.files
        if text(args.get("action")) != "multi" or makes_job:
            return cls(args, [args], multi=False, around=Around(origin, received.files))
        items = args.get("data", [])
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise Refused(texts.invalid.format(name="data"), 400)
        return cls(args, items, multi=True, around=Around(origin, alone=False))

    @property
    def from_sdk(self) -> bool:
        return text(self.args.get("client")) in SDK_CLIENTS

    @property
    def dev_mode(self) -> bool:
        return truthy(self.args.get("devMode")) or any(
            truthy(item.get("devMode")) for item in self.items
        )

    def users(self, world: World) -> list[str]:
        """Whom each action touches, in the order of the actions; "" for one that names nobody."""
        return [
            world.user_id(text(item.get("userId")), text(item.get("deviceId")))
            for item in self.items
        ]

    def request_time(self, now: float) -> float:
        """A multi's own `time` is the sender's clock; a lone action's is the action's (fact sheet
        §3.7).
        """
        sent = number(self.args.get("time")) if self.multi else None
        return now if sent is None else sent
