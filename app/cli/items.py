"""The options that choose items, and how items are printed, for `receipts` and `tail`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.common import milliseconds
from app.errors import StartRefused
from app.model import Status

if TYPE_CHECKING:
    from app.outbox.item_filter import ItemFilter

ForUser = Annotated[str | None, typer.Option("--user", help="Only items of this user id")]
ForDevice = Annotated[str | None, typer.Option("--device", help="Only items of this device id")]
ForAction = Annotated[str | None, typer.Option("--action", help="Only this action, such as track")]
ForEvent = Annotated[str | None, typer.Option("--event", help="Only events or states of this name")]
UNREADABLE = "(encrypted with a key that is not configured)"


@dataclass(frozen=True)
class ItemOptions:
    """The options that choose items; what is not given chooses all."""

    user: ForUser = None
    device: ForDevice = None
    action: ForAction = None
    event: ForEvent = None
    status: Annotated[
        list[str] | None,
        typer.Option(help="Only this status, such as rejected; may be repeated"),
    ] = None
    app: Annotated[str | None, typer.Option(help="Only this app; default: every app")] = None

    def filter(
        self, request: str | None = None, since: str | None = None, until: str | None = None
    ) -> "ItemFilter":
        """Return the filter. Raises StartRefused for invalid options."""
        from app.outbox.item_filter import ItemFilter

        return ItemFilter(
            apps=None if self.app is None else frozenset({self.app}),
            subject=subject_of(self.user, self.device),
            action=self.action,
            event=self.event,
            statuses=frozenset(map(_status, self.status)) if self.status else None,
            request_id=request,
            since=milliseconds("--since", since),
            until=milliseconds("--until", until),
        )


def subject_of(user: str | None, device: str | None) -> str | None:
    """Return the user or device of options as items have it; None if neither is given."""
    from app import ids

    if user is not None and device is not None:
        raise StartRefused("--user, --device: give one of them")
    if user is not None:
        return f"u{ids.plain(user)}"
    return None if device is None else f"d{ids.plain(device)}"


def _status(name: str) -> Status:
    if name not in set(Status):
        raise StartRefused(f"--status: must be one of {', '.join(Status)}; not {name[:100]}")
    return Status(name)


def user_or_device(document: dict[str, Any]) -> str:
    """Return the user or device of an item; erased ones have none."""
    if "userId" in document:
        return str(document["userId"])
    return f"device {document['deviceId']}" if "deviceId" in document else "(erased)"


def leanplum_words(document: dict[str, Any]) -> str:
    """Return what Leanplum said about an item, in one line."""
    if document.get("leanplumUnreadable"):
        return UNREADABLE
    answer = document.get("leanplum") or {}
    return " ".join(str(answer.get("error") or answer.get("warning") or "-").split())
