"""Enrichment as it is configured now: its file and the database of addresses.

Both files are reloaded when they change; a restart is not needed.
"""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import maxminddb
import structlog

from app.enrichment import config
from app.enrichment.build import build_pipeline, unstable_values
from app.enrichment.config import EnrichmentFile, Section
from app.enrichment.draft import EnrichmentFacts, GeoPlace
from app.enrichment.pipeline import CallEnricher, Pipeline
from app.enrichment.privacy import ValueHasher
from app.errors import StartRefused
from app.telemetry import describe

REFRESH_SECONDS = 1.0
MAXMIND_SETTING = "GATEWAY_MAXMIND_FILE"

REFUSED = {"enrichment": "enrichment.refused", "addresses": "addresses.refused"}  # by file

log = structlog.get_logger("enrichment")


def read_text(path: Path | None) -> str:
    """Return the text of the enrichment file; "" without one. Raises StartRefused."""
    if path is None:
        return ""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise StartRefused(f"{config.SETTING}: {path} can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise StartRefused(f"{config.SETTING}: {path} is not UTF-8 text") from None


class GeoDatabase:
    """A database of the places of addresses, in MaxMind's format (GeoLite2 City).

    A new file is used within a second; while it cannot be read, the previous one stays in use.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._identity: tuple[int, ...] | None = None
        self._reader: maxminddb.Reader | None = None
        self.refresh()

    @property
    def is_configured(self) -> bool:
        """True when there is a file."""
        return self._path is not None

    def refresh(self) -> None:
        """Open the file again if it has been replaced. Raises StartRefused."""
        if self._path is None:
            return
        try:
            stat = os.stat(self._path)
            # Compared without reading it, because the file is large.
            identity = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if identity != self._identity:
                self._identity, self._reader = identity, _open_copy(self._path)
                log.info("addresses.opened", built_at=self._reader.metadata().build_epoch)
        except OSError as error:
            detail = f"{self._path} can't be read: {error.strerror}"
            raise StartRefused(f"{MAXMIND_SETTING}: {detail}") from None
        except (maxminddb.InvalidDatabaseError, ValueError):
            detail = f"{self._path} is not a MaxMind database"
            raise StartRefused(f"{MAXMIND_SETTING}: {detail}") from None

    def find_place(self, address: str) -> GeoPlace | None:
        """Return the place of an address; None if it is unknown or invalid."""
        if self._reader is None:
            return None
        try:
            record = self._reader.get(address)
        except (ValueError, maxminddb.InvalidDatabaseError):
            return None
        return _place_of(record) if isinstance(record, dict) else None


def _open_copy(path: Path) -> maxminddb.Reader:
    """Return a reader of a copy, because the file may be overwritten while it is read.

    If no file can be written, as in a read-only container, the copy is in memory, which makes
    lookups slower.
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


def _place_of(record: dict[str, Any]) -> GeoPlace:
    regions = record.get("subdivisions")
    return GeoPlace(
        country=_text(record.get("country"), "iso_code"),
        region=_name(regions[0]) if isinstance(regions, list) and regions else None,
        city=_name(record.get("city")),
        location=_coordinates(record.get("location")),
    )


def _text(value: Any, key: str) -> str | None:
    text = value.get(key) if isinstance(value, dict) else None
    return text if isinstance(text, str) and text and "\0" not in text else None


def _name(value: Any) -> str | None:
    return _text(value.get("names"), "en") if isinstance(value, dict) else None


def _coordinates(value: Any) -> str | None:
    if not isinstance(value, dict):
        return None
    latitude, longitude = value.get("latitude"), value.get("longitude")
    if not isinstance(latitude, float) or not isinstance(longitude, float):
        return None
    return f"{latitude},{longitude}"


class Pipelines:
    """The pipelines of all apps and callers. Raises StartRefused with a line for each fault."""

    def __init__(self, file: EnrichmentFile, hasher: ValueHasher) -> None:
        self._file, self._hasher = file, hasher
        self._built: dict[tuple[str, str], Pipeline] = {}
        places: dict[str, str] = {}  # by fault: the first section where it shows
        for app in ("", *file.apps):
            for key_id in ("", *file.callers):
                for fault in self._faults(app, key_id):
                    places.setdefault(fault, _place(app, key_id))
        if places:
            raise StartRefused(
                *(f"{config.SETTING}: {place}{fault}" for fault, place in places.items())
            )

    def of(self, app: str, key_id: str) -> Pipeline:
        """Return the pipeline of a caller of an app."""
        # Callers and apps without a section share a pipeline.
        key = (
            app if app in self._file.apps else "",
            key_id if key_id in self._file.callers else "",
        )
        pipeline = self._built.get(key)
        if pipeline is None:
            pipeline = self._built[key] = build_pipeline(self._section(*key), self._hasher)
        return pipeline

    def _section(self, app: str, key_id: str) -> Section:
        narrower = [self._file.apps.get(app), self._file.callers.get(key_id)]
        return config.merge([self._file, *(section for section in narrower if section is not None)])

    def _faults(self, app: str, key_id: str) -> list[str]:
        section = self._section(app, key_id)
        faults = list(config.faults(section))
        return faults or list(unstable_values(build_pipeline(section, self._hasher), section))


def _place(app: str, key_id: str) -> str:
    place = f"apps.{app}: " if app else ""
    return f"{place}callers.{key_id}: " if key_id else place


class EnrichmentService:
    """Makes the enricher of each call.

    Faults of a changed file are logged, and the previous file stays in use.
    """

    def __init__(self, file: Path | None, maxmind: Path | None, key: bytes) -> None:
        """Load both files; `key` is for the hashes of values. Raises StartRefused."""
        self._file = file
        self._hasher = ValueHasher(key)
        self._text = read_text(file)
        self._pipelines = Pipelines(config.parse(self._text), self._hasher)
        self._database = GeoDatabase(maxmind)
        self._faults: dict[str, tuple[str, ...]] = {}  # that were logged, by file

    def enricher(self, app: str, key_id: str, now: int, address: str | None = None) -> CallEnricher:
        """Return the enricher of one call at `now` (ms); `address`: the end user's."""
        facts = EnrichmentFacts(now, address, self._database.find_place)
        return CallEnricher(self._pipelines.of(app, key_id), facts)

    def refresh(self) -> None:
        """Reload the files that have changed. Blocks; may be called on a thread."""
        self._log_faults("enrichment", self._reload)
        self._log_faults("addresses", self._database.refresh)

    def _reload(self) -> None:
        text = read_text(self._file)
        if text != self._text:
            self._pipelines = Pipelines(config.parse(text), self._hasher)
            self._text = text
            log.info("enrichment.changed")

    def _log_faults(self, file: str, refresh: Callable[[], None]) -> None:
        """Call `refresh`; log the faults of a file once."""
        try:
            refresh()
        except StartRefused as error:
            if self._faults.get(file) != error.lines:
                log.error(REFUSED[file], lines=error.lines)
            self._faults[file] = error.lines
        else:
            self._faults.pop(file, None)

    async def run(self) -> None:
        """Refresh every second, if there is a file, until cancelled."""
        while self._file is not None or self._database.is_configured:
            await asyncio.sleep(REFRESH_SECONDS)
            try:
                await asyncio.to_thread(self.refresh)
            except Exception as error:
                # The task must not end: old rules would stay in use for good.
                log.error("enrichment.read_failed", **describe(error))


def check_files(file: Path | None, maxmind: Path | None) -> None:
    """Check that the files can be used. Raises StartRefused with a line for each fault."""
    EnrichmentService(file, maxmind, b"\0" * 32)
