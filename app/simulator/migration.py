"""The state of an app's migration to CleverTap: a hash that SDKs compare (fact sheet §3.8, §4,
§7).
"""

import hashlib
import json
from dataclasses import replace

from app.simulator.responses import Answer


def state_hash(app_id: str) -> str:
    """Constant for an app: a changed one makes SDKs ask again."""
    return hashlib.sha256(f"lp {app_id}".encode()).hexdigest()


def with_migrate_state(answer: Answer, app_id: str) -> Answer:
    """The answer with a top-level `migrateState`, as newer servers add it; one that is no envelope
    as it is.
    """
    try:
        envelope = json.loads(answer.body)
    except ValueError:
        return answer
    envelope["migrateState"] = {"sha256": state_hash(app_id)}
    return replace(answer, body=json.dumps(envelope, separators=(",", ":")).encode())
