"""The plan's files: one, or a folder of them. They are read anew all the time: a change needs no
restart.
"""

import asyncio
from pathlib import Path

import structlog

from app.errors import StartRefused
from app.telemetry import describe
from app.tracking.plan.load import Made, made
from app.tracking.plan.validate import NO_PLANS, Plan, Plans
from app.tracking.plan.yaml_text import refused

REFRESH_SECONDS = 1.0
SETTING = "GATEWAY_TRACKING_PLAN"
ENDINGS = frozenset({".yaml", ".yml", ".json"})
MOST_BYTES = 16 * 1024 * 1024
Files = dict[str, str]  # the texts, by the files' names

log = structlog.get_logger("plan")


def read(path: Path, label: str = SETTING, beside: Path | None = None) -> Files:
    """The texts of a plan's file, or of the files in a folder and in those below it; they are named
    from `beside` on. Raises StartRefused.
    """
    try:
        names = [path] if not path.is_dir() else _in_folder(path)
        if sum(one.stat().st_size for one in names) > MOST_BYTES:
            raise StartRefused(f"{label}: {path} has more than {MOST_BYTES} bytes")
        return {
            str(one.relative_to(beside) if beside else one): one.read_text(encoding="utf-8-sig")
            for one in names
        }
    except OSError as error:
        raise StartRefused(
            f"{label}: {error.filename or path} can't be read: {error.strerror}"
        ) from None
    except UnicodeDecodeError:
        raise StartRefused(
            f"{label}: {path} is not UTF-8 text, or has a file that is not"
        ) from None


def _in_folder(path: Path) -> list[Path]:
    """Nothing hidden: a mounted folder has links of its own in it, whose names begin with a dot."""
    found = [one for one in path.rglob("*") if one.suffix in ENDINGS and one.is_file()]
    return sorted(
        one
        for one in found
        if not any(part.startswith(".") for part in one.relative_to(path).parts)
    )


def plans_of(path: Path, label: str = SETTING) -> Plans:
    """The plans at a path. Raises StartRefused with a line for everything that is wrong."""
    return _loaded(made(read(path, label)))


def _loaded(found: Made) -> Plans:
    if found.plans is None:
        raise refused([one for one in found.told if one.fatal])
    return found.plans


class LoadedPlans:
    """The plans as they are now. What is wrong in a changed file is told in the log and by the API,
    and the plans stay as they were.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._files: Files | None = None
        self._plans = NO_PLANS
        self.refused: tuple[str, ...] = ()  # what is wrong with the files as they are now
        if path is not None:
            self._files = read(path, beside=path.parent)
            self._plans = _loaded(made(self._files))

    @property
    def plans(self) -> Plans:
        """All of them."""
        return self._plans

    def of(self, app: str) -> Plan | None:
        """The plan of an app; None where there is none for it."""
        return self._plans.of(app)

    def look(self) -> tuple[Files, Made] | None:
        """Read the files; what they make where they have changed. Raises StartRefused. May be
        called on a thread.
        """
        assert self._path is not None
        files = read(self._path, beside=self._path.parent)
        return None if files == self._files else (files, made(files))

    def take(self, files: Files, found: Made) -> None:
        """Use what `look` found, unless something is wrong with it."""
        self._files = files
        if found.plans is None:
            self._refuse(tuple(str(one) for one in found.told if one.fatal))
            return
        self._plans, self.refused = found.plans, ()
        log.info("plan.changed", versions=sorted(versions(found.plans)))

    def _refuse(self, lines: tuple[str, ...]) -> None:
        if lines != self.refused:
            log.error("plan.refused", lines=lines, kept=sorted(versions(self._plans)))
        self.refused = lines

    def refresh(self) -> None:
        """Look and take."""
        try:
            if (changed := self.look()) is not None:
                self.take(*changed)
        except StartRefused as refusal:
            self._files = None  # when they can be read again, that is a change
            self._refuse(refusal.lines)

    async def run(self) -> None:
        """Look every second, until cancelled; by content, not by time stamps."""
        while self._path is not None:
            await asyncio.sleep(REFRESH_SECONDS)
            try:
                await asyncio.to_thread(self.refresh)
            except Exception as error:
                # the outermost place: a reader that ended would keep an old plan for good
                log.error("plan.unreadable", **describe(error))


def versions(plans: Plans) -> set[str]:
    """Every version that is loaded."""
    return {plan.version for _, plan in plans.each()}
