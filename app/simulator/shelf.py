"""Files: those that come with a call, those that are stored, and where they can be fetched."""

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

FILES_PATH = "/_files"


@dataclass(frozen=True)
class Upload:
    """One file part of a multipart body, or a body that is itself a file."""

    filename: str
    content: bytes


@dataclass(frozen=True)
class Around:
    """What surrounds an action: the simulator's own address, the call's files, whether it came
    alone.
    """

    origin: str = "http://simulator"
    files: Mapping[str, Upload] = field(default_factory=dict)
    alone: bool = True


@dataclass(frozen=True)
class StoredFile:
    """A file of the simulated app; whoever has the token may fetch it."""

    name: str
    content: bytes
    hash: str = ""
    token: str = field(default_factory=lambda: secrets.token_urlsafe(16))

    def url(self, origin: str) -> str:
        return f"{origin}{FILES_PATH}/{quote(self.name, safe='')}?token={self.token}"

    def shown(self) -> dict[str, Any]:
        """What /_simulator/files shows; `hash` is what the sender said, unchecked."""
        sha256 = hashlib.sha256(self.content).hexdigest()
        return {"name": self.name, "size": len(self.content), "sha256": sha256, "hash": self.hash}


class Shelf:
    """The uploaded files by name, every file that can be fetched by its token, and the objects of
    public buckets.
    """

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], bytes] = {}
        self.uploads: dict[str, StoredFile] = {}
        self._by_token: dict[str, StoredFile] = {}

    def upload(self, files: list[StoredFile]) -> None:
        """Store uploads; a file of the same name takes the place of the earlier one."""
        for file in files:
            if earlier := self.uploads.get(file.name):
                del self._by_token[earlier.token]
            self.uploads[file.name] = file
            self.offer(file)

    def size_with(self, files: list[StoredFile]) -> int:
        """The bytes of all uploads once these are among them."""
        return sum(
            len(file.content)
            for file in (self.uploads | {file.name: file for file in files}).values()
        )

    def offer(self, file: StoredFile) -> StoredFile:
        """Make a file fetchable; returns it."""
        self._by_token[file.token] = file
        return file

    def fetch(self, name: str, token: str) -> StoredFile | None:
        file = self._by_token.get(token)
        return file if file is not None and file.name == name else None
