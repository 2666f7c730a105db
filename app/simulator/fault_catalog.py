"""The list of all fault modes that GET /_simulator/faults shows, with a command for each."""

import json
from typing import Any

from app.simulator.fault_effects import MODES, CallMode, EntryMode
from app.simulator.faults import PARAMETERS

FAULTS_PATH = "/_simulator/faults"
EXAMPLE_DELAY = 5  # seconds


def fault_catalog(origin: str) -> dict[str, Any]:
    """Return the modes and the parameters; `origin` is the address of the simulator."""
    return {
        "modes": [_describe(name, mode, origin) for name, mode in MODES.items()],
        "parameters": {name: parameter.description for name, parameter in PARAMETERS.items()},
        "remove": f"curl -sS -X DELETE {origin}{FAULTS_PATH}",
    }


def _describe(name: str, mode: CallMode | EntryMode, origin: str) -> dict[str, Any]:
    plan = {"faults": [_example(name)]}
    body = json.dumps(plan, separators=(",", ":"))
    return {
        "mode": name,
        "affects": "entries" if isinstance(mode, EntryMode) else "call",
        "description": mode.description,
        "applied": mode.applied,
        "parameters": [
            parameter for parameter in PARAMETERS if parameter != "message" or mode.has_message
        ],
        "example": plan,
        "curl": f"curl -sS {origin}{FAULTS_PATH} -d '{body}'",
    }


def _example(name: str) -> dict[str, Any]:
    """Return a fault that lasts until it is removed, so that there is time to look at it."""
    example: dict[str, Any] = {"mode": name, "times": None}
    if name == "slow":
        example["delay"] = EXAMPLE_DELAY
    return example
