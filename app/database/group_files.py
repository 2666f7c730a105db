"""Makes new files beside a SQLite database writable for the group, where the directory is.

A container's user may be another one after an update, with the group alone in common.
"""

import os
import stat
from pathlib import Path

GROUP_MODE = 0o660


def share_with_group(path: Path) -> None:
    """Make the file, if it is new and its directory is the group's to write. SQLite gives its other
    files its mode.
    """
    if path.exists() or not path.parent.stat().st_mode & stat.S_IWGRP:
        return
    with path.open("ab") as made:
        os.fchmod(made.fileno(), GROUP_MODE)
