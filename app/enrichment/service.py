"""Enrichment as it is configured now: its file, and the database of addresses. Files are read anew
all the time: a change needs no restart.
"""

import asyncio
import os
import shutil
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import maxminddb
import structlog

from app.enrichment.call_enricher import Enriching
from app.enrichment.config import FILE, Declared, declared
from app.enrichment.draft import Facts, Place
from app.enrichment.pipeline import Cookbook
from app.enrichment.privacy import Pseudonyms
from app.errors import StartRefused
from app.telemetry import describe

REFRESH_SECONDS = 1.0
MAXMIND = "GATEWAY_MAXMIND_FILE"

log = structlog.get_logger("enrichment")


def read(path: Path | None) -> str:
    """The file's text; "" where there is none to be read. Raises StartRefused."""
    if path is None:
        return ""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise StartRefused(f"{FILE}: {path} can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise StartRefused(f"{FILE}: {path} is not UTF-8 text") from None


def understood(text: str) -> Declared:
    """What the text declares. Raises StartRefused with a line for each fault."""
    try:
        return declared(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise StartRefused(f"{FILE}: is not TOML: {error}") from None


class Addresses:
    """A database of where addresses are (MaxMind's format, as GeoLite2 City). What replaces its
    file is taken within a second; where that can't be read, the one before goes on.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._seen: tuple[int, ...] | None = None
        self._reader: maxminddb.Reader | None = None
        self.refresh()

    @property
    def configured(self) -> bool:
        """Whether there is a file to look at."""
        return self._path is not None

    def refresh(self) -> None:
        """Open the file again where it is another one now. Raises StartRefused."""
        if self._path is None:
            return
        try:
            found = os.stat(self._path)
            seen = (found.st_ino, found.st_mtime_ns, found.st_size)
            if seen != self._seen:
                self._seen, self._reader = seen, _opened(self._path)
                log.info("addresses.opened", built_at=self._reader.metadata().build_epoch)
        except OSError as error:
            raise StartRefused(f"{MAXMIND}: {self._path} can't be read: {error.strerror}") from None
        except (maxminddb.InvalidDatabaseError, ValueError):
            raise StartRefused(f"{MAXMIND}: {self._path} is no MaxMind database") from None

    def place(self, address: str) -> Place | None:
        """Where an address is; None for what is none, or not known."""
        if self._reader is None:
            return None
        try:
            found = self._reader.get(address)
        except (ValueError, maxminddb.InvalidDatabaseError):
            return None
        return _place(found) if isinstance(found, dict) else None


def _opened(path: Path) -> maxminddb.Reader:
    """A reader of a copy: the file itself may be written over while it is being read. Where no file
    can be written, as in a container that is read-only, the copy is in memory, which makes looking
    up slower.
    """
    with path.open("rb") as original:
        try:
            with tempfile.NamedTemporaryFile(prefix="addresses-") as copy:
                shutil.copyfileobj(original, copy)
                copy.flush()
                return maxminddb.open_database(copy.name)
        except OSError:
            original.seek(0)
            return maxminddb.open_database(original, maxminddb.MODE_FD)


def _place(found: dict[str, Any]) -> Place:
    country, city, regions = found.get("country"), found.get("city"), found.get("subdivisions")
    return Place(
        country=_text(country, "iso_code"),
        region=_name(regions[0]) if isinstance(regions, list) and regions else None,
        city=_name(city),
        location=_location(found.get("location")),
    )


def _text(found: Any, key: str) -> str | None:
    value = found.get(key) if isinstance(found, dict) else None
    return value if isinstance(value, str) and value and "\0" not in value else None


def _name(found: Any) -> str | None:
    return _text(found.get("names"), "en") if isinstance(found, dict) else None


def _location(found: Any) -> str | None:
    at = [found.get(name) for name in ("latitude", "longitude")] if isinstance(found, dict) else []
    return ",".join(map(str, at)) if at and all(isinstance(one, float) for one in at) else None


class Enrichment:
    """Makes the refiner of each call. What is wrong in a changed file is told in the log, and all
    stays as it was.
    """

    def __init__(self, file: Path | None, maxmind: Path | None, key: bytes) -> None:
        self._file = file
        self._pseudonyms = Pseudonyms(key)
        self._text = read(file)
        self._book = self._made(self._text)
        self._addresses = Addresses(maxmind)
        self._refused: dict[str, tuple[str, ...]] = {}

    def _made(self, text: str) -> Cookbook:
        return Cookbook(understood(text), self._pseudonyms)

    def refiner(self, app: str, key_id: str, now: int, address: str | None = None) -> Enriching:
        """What the items of one call go through, at `now` (milliseconds since the epoch).
        `address`: the end user's.
        """
        return Enriching(self._book.recipe(app, key_id), Facts(now, address, self._addresses.place))

    def refresh(self) -> None:
        """Look at the files again."""
        self._attempt("enrichment", self._reread)
        self._attempt("addresses", self._addresses.refresh)

    def _reread(self) -> None:
        text = read(self._file)
        if text != self._text:
            self._book, self._text = self._made(text), text
            log.info("enrichment.changed")

    def _attempt(self, what: str, refresh: Callable[[], None]) -> None:
        try:
            refresh()
        except StartRefused as refused:
            if self._refused.get(what) != refused.lines:
                log.error(f"{what}.refused", lines=refused.lines)
            self._refused[what] = refused.lines
            return
        self._refused.pop(what, None)

    async def run(self) -> None:
        """Look at the files every second, where there are any, until cancelled. The one is compared
        by its content, as the apps' file is; the other, which is large, by its inode, its time and
        its size.
        """
        while self._file is not None or self._addresses.configured:
            await asyncio.sleep(REFRESH_SECONDS)
            try:
                await asyncio.to_thread(self.refresh)
            except Exception as error:
                # the outermost place: a reader that ended would keep old rules for good
                log.error("enrichment.unreadable", **describe(error))


def check(file: Path | None, maxmind: Path | None) -> None:
    """Raises StartRefused where the files don't allow a start."""
    Enrichment(file, maxmind, b"\0" * 32)
