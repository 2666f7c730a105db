"""Short words for plans and what is held against them."""

import json
from typing import Any

from app.errors import Fault
from app.tracking.plan.load import LoadResult, load_plans
from app.tracking.plan.validate import Plan, Violation

PURCHASE: dict[str, Any] = {
    "mode": "enforce",
    "value": {"type": "number", "exclusiveMinimum": 0},
    "currencyCode": {"enum": ["EUR", "USD"]},
    "required": ["value"],
    "params": {
        "properties": {"sku": {"$ref": "#/definitions/sku"}, "gift": {"type": "boolean"}},
        "required": ["sku"],
        "additionalProperties": False,
    },
}
SKU = {"sku": {"type": "string", "pattern": "^[A-Z]-[0-9]+$"}}
GOOD: dict[str, Any] = {"userId": "u1", "event": "Purchase", "value": 9.5, "params": {"sku": "A-1"}}


def text(**content: Any) -> str:
    """A plan's file."""
    return json.dumps({"version": "1", **content}, indent=1)


def found(*files: str) -> LoadResult:
    """What files make, named a.yaml, b.yaml …"""
    return load_plans({f"{chr(97 + index)}.yaml": one for index, one in enumerate(files)})


def told(*files: str) -> list[str]:
    """Everything that is told of files."""
    return [str(one) for one in found(*files).findings]


def plan(app: str = "default", **content: Any) -> Plan:
    """The plan that this content makes."""
    made_ = found(text(**content))
    assert made_.plans is not None, [str(one) for one in made_.findings]
    of = made_.plans.of(app)
    assert of is not None
    return of


def faults(violations: Any) -> dict[str, str]:
    """The codes by their pointers."""
    return {of(one).pointer: of(one).code for one in violations}


def of(one: Violation | Fault) -> Fault:
    return one.fault if isinstance(one, Violation) else one


def shop(**more: Any) -> str:
    """The file of a small plan."""
    return text(definitions=SKU, events={"Purchase": PURCHASE} | more.pop("events", {}), **more)
