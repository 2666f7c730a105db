"""The simulated app's state: who exists, which device is whose, which actions were already done.

Pure: no HTTP, no clock (the time is an argument).
"""

from typing import Any

from app.simulator.config import SimulatorConfig
from app.simulator.content import Content
from app.simulator.jobs import Jobs
from app.simulator.people import Device, Tally, User
from app.simulator.sandbox import SandboxMessage
from app.simulator.shelf import Shelf

REPEATS_KEPT = 500_000
SINCE = 1_704_067_200.0  # when users who exist from the start were made


class World:
    """Users and devices of one app; a device without a user is a user of that id (as in JS, §7)."""

    def __init__(self, config: SimulatorConfig) -> None:
        self.config = config
        self.users: dict[str, User] = {one: User(one, created=SINCE) for one in config.users}
        self.devices: dict[str, Device] = {}
        self.messages: dict[str, SandboxMessage] = {
            str(message.id): message for message in config.messages
        }
        self.content = Content()
        self.shelf = Shelf()
        self.jobs = Jobs()
        self.newsfeed_made = 0
        self.applied = 0
        self.duplicates = 0
        self._done: dict[tuple[str, str], None] = {}

    def user_id(self, user_id: str, device_id: str) -> str:
        """Whom two ids mean: the user named, else the device's last user, else the device as a
        user.
        """
        if user_id or not device_id:
            return user_id
        device = self.devices.get(device_id)
        return device.user_id if device else device_id

    def find(self, user_id: str, now: float, *, create: bool) -> User | None:
        user = self.users.get(user_id)
        if user is None and create:
            user = self.users[user_id] = User(user_id, created=now)
        return user

    def link(self, device_id: str, user: User) -> Device:
        """The device, made if it is new, now in this user's hands."""
        device = self.devices.get(device_id)
        if device is None:
            device = self.devices[device_id] = Device(device_id, user.user_id)
        elif device.user_id != user.user_id:
            self._unlink(device)
            device.user_id = user.user_id
        if device_id not in user.devices:
            user.devices.append(device_id)
        return device

    def erase(self, user: User) -> None:
        """Forget a user and the devices in their hands."""
        for device_id in user.devices:
            self.devices.pop(device_id, None)
        self.users.pop(user.user_id, None)

    def block(self, user: User, now: float) -> None:
        """Blocking erases the data too (fact sheet §3.5); only the block itself is remembered."""
        self.erase(user)
        self.users[user.user_id] = User(user.user_id, created=now, blocked=True)

    def become(self, user: User, new_id: str, now: float) -> User:
        """`newUserId` (fact sheet §3.4): login merges an anonymous user, register renames it, else
        a switch.

        Anonymous (I): known by a device's id, or by an id without any device, as servers make them.
        """
        if user.devices and user.user_id not in user.devices:
            return self._switch(user, new_id, now)
        target = self.users.get(new_id)
        if target is not None:
            return self._merge(user, target)
        return self._rename(user, new_id)

    def repeated(self, identity: tuple[str, str] | None) -> bool:
        """Whether an action with this (uuid, reqId) was applied before; counts it."""
        known = identity in self._done if identity is not None else False
        self.duplicates += known
        return known

    def note_applied(self, identity: tuple[str, str] | None) -> None:
        self.applied += 1
        if identity is None:
            return
        self._done[identity] = None
        if len(self._done) > REPEATS_KEPT:
            del self._done[next(iter(self._done))]

    def _unlink(self, device: Device) -> None:
        owner = self.users.get(device.user_id)
        if owner is not None and device.device_id in owner.devices:
            owner.devices.remove(device.device_id)

    def _switch(self, user: User, new_id: str, now: float) -> User:
        target = self.users.setdefault(new_id, User(new_id, created=now))
        self._hand_over(user, target)
        if user.session(now):
            user.end_session(now)
            target.begin_session(now)
        return target

    def _merge(self, user: User, target: User) -> User:
        """The existing user's own values win over the anonymous one's (I)."""
        target.attributes = {**user.attributes, **target.attributes}
        for name, members in user.sets.items():
            known = target.sets.setdefault(name, [])
            known.extend(member for member in members if member not in known)
        _merge_tallies(target.events, user.events)
        _merge_tallies(target.states, user.states)
        target.sessions.extend(user.sessions)
        target.newsfeed.update(user.newsfeed)
        target.nameless_devices += [
            each for each in user.nameless_devices if each not in target.nameless_devices
        ]
        self._hand_over(user, target)
        del self.users[user.user_id]
        return target

    def _rename(self, user: User, new_id: str) -> User:
        del self.users[user.user_id]
        user.user_id = new_id
        self.users[new_id] = user
        for device_id in user.devices:
            self.devices[device_id].user_id = new_id
        return user

    def _hand_over(self, user: User, target: User) -> None:
        for device_id in list(user.devices):
            self.link(device_id, target)


def _merge_tallies(into: dict[str, Tally], other: dict[str, Tally]) -> None:
    for name, tally in other.items():
        into.setdefault(name, Tally()).merge(tally)


def identity_of(item: dict[str, Any]) -> tuple[str, str] | None:
    """What makes an action the same action: `uuid` and `reqId` together (fact sheet §0.7)."""
    uuid, req_id = item.get("uuid"), item.get("reqId")
    return (str(uuid), str(req_id)) if uuid and req_id else None
