"""What the simulator's journal tells of the calls: which overlapped, and what was done for whom, in
which order.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import httpx

PAGE = 2_000


@dataclass(frozen=True)
class Call:
    """One call as the simulator saw it; `ended` is infinite where it was not answered yet."""

    index: int
    began: float
    ended: float
    users: tuple[str, ...]
    actions: list[dict[str, Any]]
    done: list[bool]


@dataclass(frozen=True)
class Overlap:
    """A call that began while an earlier one of the same user was at work."""

    user: str
    earlier: Call
    later: Call


def calls(simulator: str) -> list[Call]:
    """Return all calls in the order of their arrival."""
    return list(_calls(simulator))


def _calls(simulator: str) -> Iterator[Call]:
    since = 0
    with httpx.Client(base_url=simulator, trust_env=False, timeout=60) as http:
        while (
            page := http.get(f"/_simulator/calls?since={since}&limit={PAGE}")
            .raise_for_status()
            .json()["calls"]
        ):
            yield from map(_call, page)
            since = page[-1]["index"]


def _call(shown: dict[str, Any]) -> Call:
    ended = float("inf") if shown["finishedAt"] is None else shown["finishedAt"]
    answers = shown["answers"] if shown["status"] == 200 else []
    done = [answer["success"] is True and not _skipped(answer) for answer in answers]
    if len(done) != len(shown["actions"]):
        done = [False] * len(shown["actions"])
    return Call(
        shown["index"], shown["receivedAt"], ended, tuple(shown["users"]), shown["actions"], done
    )


def _skipped(answer: dict[str, Any]) -> bool:
    """Whether Leanplum answered with success and did nothing."""
    return str((answer.get("warning") or {}).get("message", "")).endswith("skipped.")


def overlaps(journal: Iterable[Call]) -> list[Overlap]:
    """Return each call that began while another one of the same user was at work, once for each
    such user.
    """
    latest: dict[str, Call] = {}
    found = list[Overlap]()
    for call in sorted(journal, key=lambda one: one.began):
        for user in call.users:
            earlier = latest.get(user)
            if earlier is not None and call.began < earlier.ended:
                found.append(Overlap(user, earlier, call))
            if earlier is None or call.ended > earlier.ended:
                latest[user] = call
    return found


def by_name(journal: Iterable[Call]) -> list[Call]:
    """Return the calls with whom their actions name as their users. A device that is named alone is
    one of its own, but for a login of it, which keeps the order of its new user.
    """
    return [
        replace(call, users=tuple({_name(action) for action in call.actions})) for call in journal
    ]


def _name(action: dict[str, Any]) -> str:
    user = action.get("userId") or action.get("newUserId")
    return f"u{user}" if user else f"d{action.get('deviceId')}"


def done_for(journal: Iterable[Call]) -> dict[str, list[tuple[Call, dict[str, Any]]]]:
    """Return, by user, the actions that Leanplum did, in its order, each with its call."""
    found = defaultdict[str, list[tuple[Call, dict[str, Any]]]](list)
    for call in journal:
        for action, done in zip(call.actions, call.done, strict=True):
            if done and action.get("userId"):
                found[action["userId"]].append((call, action))
    return found
