"""The gate of a call: what its items are held against beside the rules, and what is counted once
they are accepted.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence

from app.bootstrap import Gateway
from app.clock import now_ms
from app.http.request import Context
from app.http.time_slices import in_slices
from app.ingest.ports import Refiner
from app.model import NewItem, Taken
from app.tracking.checker import Gate
from app.tracking.name_rules import Name


def gate_of(gateway: Gateway, context: Context, refiner: Refiner) -> Gate:
    """The refiner with the gate of this call behind it."""
    app, taxonomy = context.app_name, gateway.taxonomy
    context.gate = Gate(
        refiner, gateway.plans.of(app), taxonomy.of(app), taxonomy.caps, taxonomy.policy
    )
    return context.gate


async def accepted(
    gateway: Gateway,
    context: Context,
    items: Sequence[NewItem],
    accept: Callable[[], Awaitable[list[Taken]]],
) -> list[Taken]:
    """Accept items, and count the new names of those that were; return what became of each."""
    claimed, names = await _claimed(context.gate, items)
    if not names:
        return await accept()
    try:
        taken = await accept()
    except BaseException:
        await gateway.taxonomy.learn(context.app_name, (), names)
        raise
    kept: dict[Name, None] = {}
    for found, (_, kind) in zip(claimed, taken, strict=True):
        if kind == "accepted":
            kept.update(dict.fromkeys(found))
    await gateway.taxonomy.learn(context.app_name, list(kept), names)
    return taken


async def _claimed(
    gate: Gate | None, items: Sequence[NewItem]
) -> tuple[list[list[Name]], list[Name]]:
    """Count the new names of items from now on; return those of each item, and each once."""
    if gate is None or not gate.brings_names:
        return [], []
    names: dict[Name, None] = {}

    def looked() -> Iterator[list[Name]]:
        for found in gate.new_names(items):
            names.update(dict.fromkeys(found))
            yield found

    claimed = await in_slices(looked())
    gate.claim(names)
    return claimed, list(names)


async def relayed(gateway: Gateway, context: Context, items: Sequence[NewItem]) -> None:
    """Keep the new names of items that Leanplum took while their caller waited."""
    _, names = await _claimed(context.gate, items)
    if names:
        await gateway.taxonomy.learn(context.app_name, names, names)


def tell(gateway: Gateway, context: Context) -> None:
    """Count what was found in a call that has been answered."""
    gate = context.gate
    if gate is None or not (gate.found or gate.beyond):
        return
    key_id = context.caller.key_id if context.caller is not None else ""
    gateway.violations.add(context.app_name, key_id, gate.found, now_ms())
    for kind in gate.beyond:
        gateway.metrics.taxonomy_beyond.labels(context.app_name, kind).inc()
