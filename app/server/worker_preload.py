"""The imports of every worker, made once in the process that workers are forked from.

They are frozen (`gc.freeze`) before the first fork: a collection in a worker would otherwise write
to all of this memory, and so copy it.
"""

import gc

from app.server import run

__all__ = ["run"]

gc.collect()
gc.freeze()
