"""A stand-in for Leanplum: a program of its own that answers over real HTTP as Leanplum is known to
answer.

It shares no code with the gateway, so that a misreading of Leanplum cannot cancel itself out. "Fact
sheet §n" in this package names a section of the project's notes on the Leanplum API; "(I)" marks
what no source states and is inferred.

A call's way:

    encoding   the HTTP request becomes arguments
    calls      lock the users, admit, ask the fault plan, act, answer
      access     the key, the limits, development mode
      faults     which planned fault strikes; `spoiling` is what it does to the answer
      performing one action: its place in the `actions` table, its user, its time, its repeat
        actions    what each action does to the `world`: its users, its `content`, its `shelf` of files, its `jobs`
    answers    entries become an HTTP answer
    journal    what was received, for `inspection` under /_simulator
"""

from app.simulator.application import create_app
from app.simulator.config import SimulatorConfig

__all__ = ["SimulatorConfig", "create_app"]
