"""Histories of callers: endless calls about one person, and the items that each call brings. Pure.

Each item has a mark of its own, which Leanplum gets as well, so that its arrival is recognized.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

Fields = dict[str, Any]
MARK = "mark"
NEVER: Fields = {"createDisposition": "CreateNever"}  # skipped where the login has not come yet
MOST_TOGETHER = 3  # items before a login, and after it, in one call


@dataclass(frozen=True)
class Item:
    """One item as its caller knows it."""

    mark: str
    subject: str
    """Whose order it keeps: `u` and a user's id, or `d` and a device's."""
    joins: frozenset[str] = frozenset()
    """Subjects that a login makes one with its own: their items that are accepted later come later."""
    item_id: str | None = None
    """The id that its caller has chosen, under which its receipt is found."""


@dataclass(frozen=True)
class Call:
    """One call to the gateway, the same at each repeat, with its items in their order."""

    protocol: Literal["v1", "sdk", "segment"]
    method: str
    path: str
    body: Fields
    items: tuple[Item, ...]


History = Callable[[str, random.Random], Iterator[Call]]


def mark_of(action: Fields) -> str | None:
    """Return the mark of an action as Leanplum got it; an alias has no field for one but its new
    id.
    """
    for field in ("params", "userAttributes"):
        values = action.get(field)
        if isinstance(values, dict) and MARK in values:
            return str(values[MARK])
    return action.get("newUserId")


# --- /v1 --------------------------------------------------------------------------------------------------------


def events(name: str, chance: random.Random) -> Iterator[Call]:
    """Yield events of one user who never logs in."""
    for number in count():
        yield _single(_event(f"{name}-{number}", name))


def chains(name: str, chance: random.Random) -> Iterator[Call]:
    """Yield single events and updates; the person logs in from a to b to c, or back to an earlier
    id.
    """
    ids = [f"{name}-{letter}" for letter in "abc"]
    current = ids[0]
    for number in count():
        mark = f"{name}-{number}"
        kind = chance.choice(["event", "event", "update", "login"])
        if kind == "event":
            yield _single(_event(mark, current))
        elif kind == "update":
            yield _single(_update(mark, current))
        else:
            new = _other(chance, ids, current)
            yield _single(_update(mark, current, newUserId=new))
            current = new


def batches(name: str, chance: random.Random) -> Iterator[Call]:
    """Yield batches that hold a login, items before it, and items that follow it under the new
    id.
    """
    ids = [f"{name}-{letter}" for letter in "abc"]
    current = ids[0]
    marks = (f"{name}-{number}" for number in count())
    while True:
        new = _other(chance, ids, current)
        before = [_event(next(marks), current) for _ in range(_some(chance))]
        login = _update(next(marks), current, newUserId=new)
        after = [_event(next(marks), new, **NEVER) for _ in range(_some(chance))]
        bodies = [*before, login, *after]
        items = tuple(_item_of(body, body["id"]) for body in bodies)
        yield Call("v1", "POST", "/v1/batch", {"items": bodies}, items)
        current = new


def _event(mark: str, user: str, **more: Any) -> Fields:
    body = {"action": "track", "id": mark, "userId": user, "event": "E", "params": {MARK: mark}}
    return body | more


def _update(mark: str, user: str, **more: Any) -> Fields:
    body = {"action": "setUserAttributes", "id": mark, "userId": user}
    return body | {"userAttributes": {MARK: mark}} | more


def _single(body: Fields) -> Call:
    """Return the call of one item, as its endpoint takes it."""
    fields = {name: value for name, value in body.items() if name != "action"}
    items = (_item_of(body, body["id"]),)
    if body["action"] == "track":
        return Call("v1", "POST", "/v1/events", fields, items)
    user = fields.pop("userId")
    return Call("v1", "PATCH", f"/v1/users/{user}", fields, items)


# --- SDKs -------------------------------------------------------------------------------------------------------


def phones(name: str, chance: random.Random) -> Iterator[Call]:
    """Yield batches of two phones: somebody unknown at first, each logs in to one of two accounts,
    and changes them.
    """
    accounts = [f"{name}-a", f"{name}-b"]
    current = {f"{name}-phone{number}": f"{name}-anonymous{number}" for number in (1, 2)}
    marks = (f"{name}-{number}" for number in count())
    while True:
        phone = chance.choice(list(current))
        user = current[phone]
        entries = [_entry(_event(next(marks), user), phone) for _ in range(_some(chance))]
        if chance.random() < 0.4:
            new = _other(chance, accounts, user)
            entries.append(_entry(_update(next(marks), user, newUserId=new), phone))
            followers = range(_some(chance))
            entries += [_entry(_event(next(marks), new, **NEVER), phone) for _ in followers]
            current[phone] = new
        items = tuple(_item_of(entry, None) for entry in entries)
        yield Call("sdk", "POST", "/api", {"action": "multi", "data": entries}, items)


def _entry(body: Fields, phone: str) -> Fields:
    """Return an item as an SDK puts it into its batch: known again by `reqId` and `uuid`."""
    fields = {name: value for name, value in body.items() if name != "id"}
    return fields | {"deviceId": phone, "reqId": body["id"], "uuid": phone}


# --- Segment ----------------------------------------------------------------------------------------------------


def segments(name: str, chance: random.Random) -> Iterator[Call]:
    """Yield batches of Segment's messages: of a known user, of the user's device alone, and what
    joins the two; an alias gives the user a new id each time.
    """
    device = f"{name}-device"
    users = (f"{name}-user{number}" for number in count())
    marks = (f"{name}-{number}" for number in count())
    current = next(users)
    while True:
        found: list[tuple[Fields, Item]] = []
        for _ in range(_some(chance)):
            kind = chance.choice(["user", "user", "device", "identify", "alias"])
            if kind == "alias":
                new = next(users)
                found.append(_alias(current, new))
                current = new
            else:
                found.append(_message(kind, next(marks), current, device))
        messages, items = zip(*found, strict=True)
        yield Call("segment", "POST", "/segment/v1/batch", {"batch": list(messages)}, items)


def _alias(user: str, new: str) -> tuple[Fields, Item]:
    message = {"type": "alias", "messageId": new, "previousId": user, "userId": new}
    return message, Item(new, f"u{user}", frozenset({f"u{new}"}), new)


def _message(kind: str, mark: str, user: str, device: str) -> tuple[Fields, Item]:
    if kind == "identify":
        ids = {"type": "identify", "messageId": mark, "userId": user, "anonymousId": device}
        return ids | {"traits": {MARK: mark}}, Item(
            mark, f"u{user}", frozenset({f"d{device}"}), mark
        )
    message: Fields = {"type": "track", "messageId": mark, "event": "E"}
    message["properties"] = {MARK: mark}
    if kind == "device":
        return message | {"anonymousId": device}, Item(mark, f"d{device}", item_id=mark)
    return message | {"userId": user}, Item(mark, f"u{user}", item_id=mark)


# --- all of them ------------------------------------------------------------------------------------------------


def _item_of(body: Fields, item_id: str | None) -> Item:
    """Return what the caller knows of an item in Leanplum's form."""
    mark, joins = mark_of(body), set[str]()
    assert mark is not None
    if "newUserId" in body:
        joins.add(f"u{body['newUserId']}")
        if "deviceId" in body:
            joins.add(f"d{body['deviceId']}")
    return Item(mark, f"u{body['userId']}", frozenset(joins), item_id)


def _other(chance: random.Random, ids: list[str], current: str) -> str:
    return chance.choice([one for one in ids if one != current])


def _some(chance: random.Random) -> int:
    return chance.randint(1, MOST_TOGETHER)


LOGINS: dict[str, History] = {
    "chains": chains,
    "batches": batches,
    "phones": phones,
    "segments": segments,
}
