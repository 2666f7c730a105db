"""The plan's files on disk: one file, or a folder. Changes apply within a second."""

import asyncio
from pathlib import Path

import structlog

from app.errors import StartRefused
from app.telemetry import describe
from app.tracking.plan.load import LoadResult, load_plans
from app.tracking.plan.validate import NO_PLANS, Plans

REFRESH_SECONDS = 1.0
SETTING = "GATEWAY_TRACKING_PLAN"
SUFFIXES = frozenset({".yaml", ".yml", ".json"})
MAX_BYTES = 16 * 1024 * 1024
Texts = dict[str, str]  # the texts of the files by their names

log = structlog.get_logger("plan")


def read_files(path: Path, label: str = SETTING, relative_to: Path | None = None) -> Texts:
    """Read a plan's file, or the files in a folder and its subfolders. Raises StartRefused.

    `label` says in errors where the path came from. File names are made relative to `relative_to`.
    """
    try:
        paths = _files_in(path) if path.is_dir() else [path]
        if sum(file.stat().st_size for file in paths) > MAX_BYTES:
            raise StartRefused(f"{label}: {path} has more than {MAX_BYTES} bytes")
        texts: Texts = {}
        for file in paths:
            name = file.relative_to(relative_to) if relative_to else file
            texts[str(name)] = file.read_text(encoding="utf-8-sig")
        return texts
    except OSError as error:
        place = error.filename or path
        raise StartRefused(f"{label}: {place} can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise StartRefused(
            f"{label}: {path} is not UTF-8 text, or has a file that is not"
        ) from None


def _files_in(folder: Path) -> list[Path]:
    """Return the plan files in a folder, in order, without hidden ones.

    A mounted folder (a Kubernetes ConfigMap) contains hidden links to its own files.
    """
    files: list[Path] = []
    for path in folder.rglob("*"):
        is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix in SUFFIXES and path.is_file() and not is_hidden:
            files.append(path)
    return sorted(files)


def load_path(path: Path, label: str = SETTING) -> Plans:
    """Load the plans at a path. Raises StartRefused with a line for each fault."""
    return _plans_of(load_plans(read_files(path, label)))


def _plans_of(result: LoadResult) -> Plans:
    if result.plans is None:
        raise StartRefused(*map(str, result.fatal))
    return result.plans


class LoadedPlans:
    """The plans in use.

    Faults of a changed file are logged and shown by the API; the plans stay as they were.
    """

    def __init__(self, path: Path | None) -> None:
        """Load the plans at a path. Raises StartRefused with a line for each fault."""
        self._path = path
        self._texts: Texts | None = None
        self.current: Plans = NO_PLANS
        self.faults: tuple[str, ...] = ()  # of the files as they are now
        if path is not None:
            self._texts = read_files(path, relative_to=path.parent)
            self.current = _plans_of(load_plans(self._texts))

    def refresh(self) -> None:
        """Read the files and apply them if they have changed. Blocks; may be called on a thread."""
        assert self._path is not None
        try:
            texts = read_files(self._path, relative_to=self._path.parent)
        except StartRefused as error:
            self._texts = None  # when they can be read again, that is a change
            self._reject(error.lines)
            return
        if texts == self._texts:
            return
        result = load_plans(texts)
        self._texts = texts
        if result.plans is None:
            self._reject(tuple(map(str, result.fatal)))
            return
        self.current, self.faults = result.plans, ()
        log.info("plan.changed", versions=_versions(result.plans))

    def _reject(self, lines: tuple[str, ...]) -> None:
        if lines != self.faults:
            log.error("plan.refused", lines=lines, kept=_versions(self.current))
        self.faults = lines

    async def run(self) -> None:
        """Refresh every second until cancelled; changes are detected by content, not by time."""
        while self._path is not None:
            await asyncio.sleep(REFRESH_SECONDS)
            try:
                await asyncio.to_thread(self.refresh)
            except Exception as error:
                # The task must not end: an old plan would stay in use for good.
                log.error("plan.read_failed", **describe(error))


def _versions(plans: Plans) -> list[str]:
    return sorted({plan.version for _, plan in plans.each()})
