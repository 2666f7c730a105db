"""What a handler of an action is given, and the ways in which it can end without an entry of its
own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from app.simulator.config import Texts
from app.simulator.people import Device, User
from app.simulator.shelf import Around
from app.simulator.values import decoded, listed, number, text, truthy
from app.simulator.world import World

Extra = dict[str, Any]
"""What an action adds to its entry beside `success`."""


class Skipped(Exception):
    """Answered with success and a warning, and nothing done (fact sheet §0.2)."""

    def __init__(self, warning: str, **extra: Any) -> None:
        super().__init__(warning)
        self.warning, self.extra = warning, extra


class Refused(Exception):
    """Answered with success:false and an error; `status` is the HTTP status if the action came
    alone.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.message, self.status = message, status


class Moved(Exception):
    """Answered with a redirect instead of an envelope."""

    def __init__(self, location: str) -> None:
        super().__init__(location)
        self.location = location


@dataclass
class Turn:
    """One action in hand: its arguments, the moment at which it counts (epoch seconds), and its
    call.
    """

    world: World
    item: dict[str, Any]
    now: float
    time: float
    around: Around
    row: Callable[[dict[str, Any]], dict[str, Any]]
    """Does an action as a row of a CSV job, and gives its entry."""

    @property
    def texts(self) -> Texts:
        return self.world.config.texts

    def invalid(self, name: str) -> Refused:
        return Refused(self.texts.invalid.format(name=name), 400)

    def missing(self, name: str) -> Refused:
        return Refused(self.texts.missing.format(name=name), 400)

    def given(self, name: str) -> bool:
        """Whether there is such an argument; "" is absent, as SDKs send it (fact sheet §7)."""
        return self.item.get(name) not in (None, "")

    def text(self, name: str) -> str:
        return text(self.item.get(name))

    def needed(self, name: str) -> str:
        """A text that may not be empty."""
        value = self.text(name)
        if not value:
            raise self.invalid(name)
        return value

    def one_of(self, name: str, known: Sequence[str]) -> str:
        value = self.text(name)
        if value not in known:
            raise self.invalid(name)
        return value

    def flag(self, name: str, *, default: bool) -> bool:
        return truthy(self.item[name]) if self.given(name) else default

    def number(self, name: str, default: float) -> float:
        """A numeric argument; strings such as "9.99" are numbers too, "" is absent."""
        value = self.item.get(name)
        result = default if value in (None, "") else number(value)
        if result is None:
            raise self.invalid(name)
        return result

    def mapping(self, name: str) -> dict[str, Any]:
        """An object argument, real or as a JSON string; {} when absent."""
        value = decoded(self.item.get(name))
        if value in (None, ""):
            return {}
        if not isinstance(value, dict):
            raise self.invalid(name)
        return value

    def listing(self, name: str) -> list[Any]:
        """An array argument, real or as a JSON string; a single value stands for itself."""
        return listed(self.item.get(name))

    def names(self, name: str) -> list[str]:
        """An array of texts; numbers are texts too."""
        found = [text(each) for each in self.listing(name)]
        if not all(found):
            raise self.invalid(name)
        return found


@dataclass
class UserTurn(Turn):
    """An action about a user; `device` is the one that it named, if any."""

    user: User
    device: Device | None
