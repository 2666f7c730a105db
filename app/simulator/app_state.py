"""State of the app as a whole: its content, its files, and its asynchronous jobs."""

import hashlib
import secrets
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import quote

FILES_PATH = "/_files"
CSV_BODY = "(body)"  # the name of a CSV body among the files of a call
APP_NUMBER = 4_871
PACIFIC = timedelta(hours=-8)


@dataclass(frozen=True)
class Upload:
    """A file part of a multipart body, or a whole body that is a file."""

    filename: str
    content: bytes


@dataclass(frozen=True)
class CallContext:
    """The call that an action belongs to: the simulator's own address, the files, the form."""

    origin: str = "http://simulator"
    files: Mapping[str, Upload] = field(default_factory=dict)
    alone: bool = True
    """The action is the call's only one, not an entry of a multi."""


@dataclass(frozen=True)
class StoredFile:
    """A file of the simulated app, which anyone with its token can download."""

    name: str
    content: bytes
    hash: str = ""
    """Checksum according to the sender; never verified."""
    token: str = field(default_factory=lambda: secrets.token_urlsafe(16))

    def url(self, origin: str) -> str:
        """Return the URL of the file, with its token."""
        return f"{origin}{FILES_PATH}/{quote(self.name, safe='')}?token={self.token}"

    def as_json(self) -> dict[str, Any]:
        """Return the file as /_simulator/files shows it."""
        sha256 = hashlib.sha256(self.content).hexdigest()
        return {"name": self.name, "size": len(self.content), "sha256": sha256, "hash": self.hash}


class FileStore:
    """The uploaded files, all downloadable files by token, and the objects of public buckets."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], bytes] = {}
        self.uploads: dict[str, StoredFile] = {}
        self._by_token: dict[str, StoredFile] = {}

    def upload(self, files: list[StoredFile]) -> None:
        """Store uploads; a file replaces an earlier one of the same name."""
        for file in files:
            if earlier := self.uploads.get(file.name):
                del self._by_token[earlier.token]
            self.uploads[file.name] = file
            self.publish(file)

    def size_with(self, files: list[StoredFile]) -> int:
        """Return the total bytes of all uploads, once `files` are stored."""
        uploads = self.uploads | {file.name: file for file in files}
        return sum(len(file.content) for file in uploads.values())

    def publish(self, file: StoredFile) -> StoredFile:
        """Make a file downloadable, and return it."""
        self._by_token[file.token] = file
        return file

    def fetch(self, name: str, token: str) -> StoredFile | None:
        """Return the file with this name and token, if there is one."""
        file = self._by_token.get(token)
        return file if file is not None and file.name == name else None


@dataclass
class AppContent:
    """Content that calls have added to the app, each kind in order of creation."""

    variables: dict[str, Any] = field(default_factory=dict)
    registered: dict[str, str] = field(default_factory=dict)
    """Development devices: device id to email."""
    channels: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Android notification channels by id."""
    postbacks: dict[str, dict[str, Any]] = field(default_factory=dict)
    postbacks_made: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return the content as /_simulator/app shows it."""
        return {
            "variables": self.variables,
            "registeredDevices": self.registered,
            "notificationChannels": list(self.channels.values()),
            "postbacks": list(self.postbacks.values()),
        }


@dataclass
class AsyncJob:
    """An export or CSV job. Its work is done at once; its state moves on with each request (I)."""

    job_id: str
    result: dict[str, Any]
    files: list[StoredFile] = field(default_factory=list)
    times_requested: int = 0
    failed: bool = False

    def next_state(self, states: tuple[str, ...]) -> str:
        """Return the state for this request; the last one stays."""
        self.times_requested += 1
        return states[min(self.times_requested, len(states)) - 1]

    def urls(self, origin: str) -> list[str]:
        """Return the URLs of the job's files."""
        return [file.url(origin) for file in self.files]

    def as_json(self) -> dict[str, Any]:
        """Return the job as /_simulator/app shows it."""
        return {"jobId": self.job_id, "asked": self.times_requested, "result": self.result}


class JobRegister:
    """All jobs of an app, and the number of exports of each day (fact sheet §3.6, §5)."""

    def __init__(self) -> None:
        self.exports: dict[str, AsyncJob] = {}
        self.multis: dict[str, AsyncJob] = {}
        self._exports_of_day: Counter[tuple[str, date]] = Counter()

    def new_id(self, prefix: str) -> str:
        """Return an id `PREFIX_<n>_<n>`, as recorded; the numbers' meaning is inferred (I)."""
        return f"{prefix}_{APP_NUMBER}_{len(self.exports) + len(self.multis) + 1}"

    def count_export(self, action: str, day: date, limit: int) -> bool:
        """Count an export of a day; return False when the limit is reached."""
        if self._exports_of_day[action, day] >= limit:
            return False
        self._exports_of_day[action, day] += 1
        return True

    def as_json(self) -> list[dict[str, Any]]:
        """Return all jobs as /_simulator/app shows them."""
        return [job.as_json() for job in (*self.exports.values(), *self.multis.values())]


def pacific_day(now: float) -> date:
    """Return the day of an export: Pacific Standard Time, the whole year round (I)."""
    return (datetime.fromtimestamp(now, UTC) + PACIFIC).date()
