"""Small file systems, and how to fill them."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def file_system(place: Path, size: str) -> Iterator[Path]:
    """A file system of its own, of this size."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system takes root and the right to mount")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path, but: int) -> Path:
    """A file that leaves so many bytes of the file system free."""
    filler = place / "filler"
    status = os.statvfs(place)
    size = status.f_bavail * status.f_frsize - but
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)
    return filler
