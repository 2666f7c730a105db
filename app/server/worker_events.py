"""The events that the workers of one gateway publish: accepted and settled items, changed keys."""

from collections.abc import Awaitable, Callable

from app.callers.key_service import notify_nobody
from app.database.driver import in_background
from app.server.bootstrap import Services
from app.server.worker_links import WorkerLink

ACCEPTED, SETTLED = "accepted", "settled"  # topics
KEYS = "keys"  # the question to read the keys, answered once that is done


def exchange_events(link: WorkerLink | None, services: Services) -> Callable[[], Awaitable[object]]:
    """Exchange item events with the other workers, if there are any.

    Return a function that makes all workers read the keys again, and waits until they have.
    """
    if link is None:
        return notify_nobody
    outbox, directory = services.outbox, services.directory
    look_for_items = outbox.on_accepted

    async def read_keys() -> None:
        await in_background(directory.refresh)

    link.listeners[ACCEPTED] = lambda _: look_for_items()
    link.listeners[SETTLED] = outbox.wake_waiters
    link.answerers[KEYS] = read_keys
    outbox.publish_settled = lambda seqs: link.publish(SETTLED, seqs)

    def publish_accepted() -> None:
        look_for_items()
        link.publish(ACCEPTED)

    outbox.on_accepted = publish_accepted
    return lambda: link.ask(KEYS)
