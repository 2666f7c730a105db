"""The arguments of a handler of an action, and the exceptions with which it can end."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from app.simulator.app_state import CallContext
from app.simulator.arguments import as_list, decode_json, number, text, truthy
from app.simulator.config import Texts
from app.simulator.profiles import Device, User
from app.simulator.world import World

EntryFields = dict[str, Any]
"""Fields that an action adds to its entry, besides `success`."""


class Skipped(Exception):
    """The action is answered with success and a warning, without effect (fact sheet §0.2)."""

    def __init__(self, warning: str, **extra: Any) -> None:
        super().__init__(warning)
        self.warning, self.extra = warning, extra


class Refused(Exception):
    """The action fails with an error; `status` is the HTTP status if it came alone."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.message, self.status = message, status


class Redirected(Exception):
    """The action is answered with a redirect instead of an envelope."""

    def __init__(self, location: str) -> None:
        super().__init__(location)
        self.location = location


@dataclass
class ActionContext:
    """An action being executed: its arguments, its time, and its call. Times in epoch seconds."""

    world: World
    item: dict[str, Any]
    now: float
    time: float
    call: CallContext
    execute_row: Callable[[dict[str, Any]], dict[str, Any]]
    """Executes an action as a row of a CSV job, and returns its entry."""

    @property
    def texts(self) -> Texts:
        """The messages for responses."""
        return self.world.config.texts

    def invalid(self, name: str) -> Refused:
        """Return the error for an argument with an invalid value."""
        return Refused(self.texts.invalid.format(name=name), 400)

    def missing(self, name: str) -> Refused:
        """Return the error for a missing argument."""
        return Refused(self.texts.missing.format(name=name), 400)

    def has(self, name: str) -> bool:
        """Return True if the argument is present; "" is absent, as SDKs send it (fact sheet §7)."""
        return self.item.get(name) not in (None, "")

    def text(self, name: str) -> str:
        """Return an argument as text, "" if absent."""
        return text(self.item.get(name))

    def required_text(self, name: str) -> str:
        """Return a text that must not be empty."""
        value = self.text(name)
        if not value:
            raise self.invalid(name)
        return value

    def choice(self, name: str, options: Sequence[str]) -> str:
        """Return a text that must be one of the options."""
        value = self.text(name)
        if value not in options:
            raise self.invalid(name)
        return value

    def flag(self, name: str, *, default: bool) -> bool:
        """Return a boolean argument."""
        return truthy(self.item[name]) if self.has(name) else default

    def number(self, name: str, default: float) -> float:
        """Return a numeric argument; strings such as "9.99" are numbers too, "" is absent."""
        value = self.item.get(name)
        result = default if value in (None, "") else number(value)
        if result is None:
            raise self.invalid(name)
        return result

    def mapping(self, name: str) -> dict[str, Any]:
        """Return an object argument, given as JSON or as a JSON string; {} when absent."""
        value = decode_json(self.item.get(name))
        if value in (None, ""):
            return {}
        if not isinstance(value, dict):
            raise self.invalid(name)
        return value

    def values(self, name: str) -> list[Any]:
        """Return an array argument, given as JSON, as a JSON string, or as a single value."""
        return as_list(self.item.get(name))

    def texts_of(self, name: str) -> list[str]:
        """Return an array of non-empty texts or numbers, all as text."""
        texts = [text(value) for value in self.values(name)]
        if not all(texts):
            raise self.invalid(name)
        return texts


@dataclass
class UserActionContext(ActionContext):
    """An action about a user; `device` is the device that it names, if any."""

    user: User
    device: Device | None
