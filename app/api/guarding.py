"""The guard of a call: what its items are held against beside the rules, and what is counted once they are accepted."""

from collections.abc import Awaitable, Sequence

from app.api.context import Context
from app.clock import now_ms
from app.intake.guarding import Guard
from app.intake.refining import Refiner
from app.model import NewItem, Taken
from app.wiring import Gateway


def guarded(gateway: Gateway, context: Context, refiner: Refiner) -> Guard:
    """The refiner with the guard of this call behind it."""
    app, taxonomy = context.app_name, gateway.taxonomy
    context.guard = Guard(refiner, gateway.plans.of(app), taxonomy.of(app), taxonomy.caps, taxonomy.policy)
    return context.guard


async def accepted(
    gateway: Gateway, context: Context, items: Sequence[NewItem], accepting: Awaitable[list[Taken]]
) -> list[Taken]:
    """What became of items, after their new names are counted: those of items that were accepted."""
    claimed = context.guard.claim(items) if context.guard is not None else []
    if not claimed:
        return await accepting
    names = list(dict.fromkeys(name for found in claimed for name in found))
    try:
        taken = await accepting
    except BaseException:
        await gateway.taxonomy.learn(context.app_name, (), names)
        raise
    new = [found for found, (_, kind) in zip(claimed, taken, strict=True) if kind == "accepted"]
    kept = list(dict.fromkeys(name for found in new for name in found))
    await gateway.taxonomy.learn(context.app_name, kept, names)
    return taken


def tell(gateway: Gateway, context: Context) -> None:
    """Count what was found in a call that has been answered."""
    guard = context.guard
    if guard is None or not (guard.found or guard.beyond):
        return
    key_id = context.caller.key_id if context.caller is not None else ""
    gateway.violations.add(context.app_name, key_id, guard.found, now_ms())
    for kind in guard.beyond:
        gateway.metrics.taxonomy_beyond.labels(context.app_name, kind).inc()
