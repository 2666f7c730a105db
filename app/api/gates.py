"""The gate of a call: what its items are held against beside the rules, and what is counted once they are accepted."""

from collections.abc import Awaitable, Callable, Sequence

from app.api.context import Context
from app.api.turns import in_slices
from app.clock import now_ms
from app.intake.gate import Gate
from app.intake.refining import Refiner
from app.intake.taxonomy import Name
from app.model import NewItem, Taken
from app.wiring import Gateway


def gate_of(gateway: Gateway, context: Context, refiner: Refiner) -> Gate:
    """The refiner with the gate of this call behind it."""
    app, taxonomy = context.app_name, gateway.taxonomy
    context.gate = Gate(refiner, gateway.plans.of(app), taxonomy.of(app), taxonomy.caps, taxonomy.policy)
    return context.gate


async def accepted(
    gateway: Gateway, context: Context, items: Sequence[NewItem], accept: Callable[[], Awaitable[list[Taken]]]
) -> list[Taken]:
    """Accept items, and count the new names of those that were; return what became of each."""
    claimed = await _claimed(context.gate, items)
    if not claimed:
        return await accept()
    names = list(dict.fromkeys(name for found in claimed for name in found))
    try:
        taken = await accept()
    except BaseException:
        await gateway.taxonomy.learn(context.app_name, (), names)
        raise
    new = [found for found, (_, kind) in zip(claimed, taken, strict=True) if kind == "accepted"]
    kept = list(dict.fromkeys(name for found in new for name in found))
    await gateway.taxonomy.learn(context.app_name, kept, names)
    return taken


async def _claimed(gate: Gate | None, items: Sequence[NewItem]) -> list[list[Name]]:
    """Count the new names of items from now on; those of each item."""
    if gate is None or not gate.brings_names:
        return []
    found = await in_slices(gate.new_names(items))
    gate.claim(name for names in found for name in names)
    return found


async def relayed(gateway: Gateway, context: Context, items: Sequence[NewItem]) -> None:
    """Keep the new names of items that Leanplum took while their caller waited."""
    claimed = await _claimed(context.gate, items)
    names = list(dict.fromkeys(name for found in claimed for name in found))
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
