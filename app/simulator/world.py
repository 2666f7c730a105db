"""The simulated world: users, devices, and the actions that were already applied.

Pure: no HTTP and no clock (times are arguments, in epoch seconds).
"""

from typing import Any

from app.simulator.app_state import AppContent, FileStore, JobRegister
from app.simulator.config import SandboxMessage, SimulatorConfig
from app.simulator.profiles import Device, Tally, User

REPEATS_KEPT = 500_000
INITIAL_USERS_CREATED = 1_704_067_200.0


class World:
    """All state of one app; a device without a user is a user of that id (as in JS, §7)."""

    def __init__(self, config: SimulatorConfig) -> None:
        self.config = config
        self.users: dict[str, User] = {
            user_id: User(user_id, created=INITIAL_USERS_CREATED) for user_id in config.users
        }
        self.devices: dict[str, Device] = {}
        self.messages: dict[str, SandboxMessage] = {
            str(message.id): message for message in config.messages
        }
        self.content = AppContent()
        self.files = FileStore()
        self.jobs = JobRegister()
        self.newsfeed_made = 0
        self.applied = 0
        self.duplicates = 0
        self._applied_identities: dict[tuple[str, str], None] = {}

    def user_id(self, user_id: str, device_id: str) -> str:
        """Return the user id that two ids mean: the user, the device's last user, or the device."""
        if user_id or not device_id:
            return user_id
        device = self.devices.get(device_id)
        return device.user_id if device else device_id

    def find(self, user_id: str, now: float, *, create: bool) -> User | None:
        """Return a user, if necessary and allowed a new one."""
        user = self.users.get(user_id)
        if user is None and create:
            user = self.users[user_id] = User(user_id, created=now)
        return user

    def link(self, device_id: str, user: User) -> Device:
        """Assign a device to a user, and return it; a new device is created."""
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
        """Delete a user and their devices."""
        for device_id in user.devices:
            self.devices.pop(device_id, None)
        self.users.pop(user.user_id, None)

    def block(self, user: User, now: float) -> None:
        """Block a user and erase their data (fact sheet §3.5); only the block is kept."""
        self.erase(user)
        self.users[user.user_id] = User(user.user_id, created=now, blocked=True)

    def change_user_id(self, user: User, new_id: str, now: float) -> User:
        """Change to another user id, by `newUserId` (fact sheet §3.4), and return that user.

        Merges an anonymous user into an existing one (login), renames it (registration), or hands
        the devices of a known user over to another (switch). Anonymous users have the id of a
        device, or no device, as those that servers create (I).
        """
        if user.devices and user.user_id not in user.devices:
            return self._switch(user, new_id, now)
        target = self.users.get(new_id)
        if target is not None:
            return self._merge(user, target)
        return self._rename(user, new_id)

    def count_repeat(self, identity: tuple[str, str] | None) -> bool:
        """Return True, and count it, if an action with this identity was applied before."""
        repeated = identity is not None and identity in self._applied_identities
        self.duplicates += repeated
        return repeated

    def record_applied(self, identity: tuple[str, str] | None) -> None:
        """Count an applied action, and keep the latest identities for deduplication."""
        self.applied += 1
        if identity is None:
            return
        self._applied_identities[identity] = None
        if len(self._applied_identities) > REPEATS_KEPT:
            del self._applied_identities[next(iter(self._applied_identities))]

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
        """Merge an anonymous user into an existing one, whose own values win (I)."""
        target.attributes = {**user.attributes, **target.attributes}
        for name, members in user.sets.items():
            target_members = target.sets.setdefault(name, [])
            target_members.extend(member for member in members if member not in target_members)
        _merge_tallies(target.events, user.events)
        _merge_tallies(target.states, user.states)
        target.sessions.extend(user.sessions)
        target.newsfeed.update(user.newsfeed)
        target.nameless_devices += [
            fields for fields in user.nameless_devices if fields not in target.nameless_devices
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


def _merge_tallies(target: dict[str, Tally], source: dict[str, Tally]) -> None:
    for name, tally in source.items():
        target.setdefault(name, Tally()).merge(tally)


def action_identity(item: dict[str, Any]) -> tuple[str, str] | None:
    """Return (`uuid`, `reqId`), which together identify an action (fact sheet §0.7)."""
    uuid, req_id = item.get("uuid"), item.get("reqId")
    return (str(uuid), str(req_id)) if uuid and req_id else None
