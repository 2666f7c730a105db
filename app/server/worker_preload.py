"""The imports of every worker, made once in the process that workers are forked from.

They are frozen (`gc.freeze`) before the first fork: a collection in a worker would otherwise write
to all of this memory, and so copy it.
"""

import gc
import signal

from app.server import run

__all__ = ["run"]

gc.collect()
gc.freeze()

# A signal for the whole group, as a terminal or systemd sends it, is for the supervisor. It stops
# its workers in order; they restore what they handle.
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
