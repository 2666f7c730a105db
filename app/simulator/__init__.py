"""A simulator of Leanplum: a separate program that answers over HTTP as Leanplum does.

It shares no code with the gateway, so that a misreading of Leanplum cannot cancel itself out. "Fact
sheet §n" in this package names a section of docs/leanplum-api.md; "(I)" marks
what no source states and is inferred.

The path of a call:

    call         decode the HTTP request into arguments and actions
    call_flow    lock the users, authorize, choose faults, execute, answer, record
      access       the key, the limits of a call, development mode, user locks
      faults       which planned fault applies; its effect is in `fault_effects`
      execution    one action: its key, user, time and deduplication
        actions      the effect on the `world`: on users (`profiles`) and on `app_state`
    responses    make an HTTP response of the entries
    journal      the latest calls, which the pages under /_simulator show
"""

from app.simulator.application import create_app
from app.simulator.config import SimulatorConfig

__all__ = ["SimulatorConfig", "create_app"]
