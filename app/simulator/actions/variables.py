"""The app's variables: setVars, deleteVars, getVars (fact sheet §3.5, §3.6)."""

import json

from app.simulator.actions.handler import Extra, Refused, Turn, UserTurn

MAX_BYTES = 1_000_000


def variables(turn: Turn) -> Extra:
    """What `start` and `getVars` tell.

    No user is in a variant, so every variable has its default: without `includeDefaults` none is
    told (I).
    """
    told = dict(turn.world.content.variables) if turn.flag("includeDefaults", default=True) else {}
    maps, lists = ("messages", "regions"), ("variants", "interfaceRules", "interfaceEvents")
    return {"vars": told, **{name: {} for name in maps}, **{name: [] for name in lists}}


def get_vars(turn: UserTurn) -> Extra:
    return variables(turn)


def set_vars(turn: Turn) -> Extra:
    """Variables that are not named are kept (I); all together take less than 1 MB (fact sheet
    §5).
    """
    known = turn.world.content.variables
    changed = known | turn.mapping("vars")
    if len(json.dumps(changed)) >= MAX_BYTES:
        raise Refused(turn.texts.variables_too_large, 400)
    known.update(changed)
    return {}


def delete_vars(turn: Turn) -> Extra:
    """Tells which were removed; a name without a variable is passed over (I)."""
    known = turn.world.content.variables
    removed = [name for name in dict.fromkeys(turn.names("vars")) if name in known]
    for name in removed:
        del known[name]
    return {"variablesRemoved": removed}
