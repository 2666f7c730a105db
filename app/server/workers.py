"""The worker processes of `serve --workers N`.

The supervisor imports this module, and so nothing here imports the gateway's services before a
worker runs: the supervisor stays small, and starts soon.
"""

import os
import signal
import socket
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection

from app.errors import StartRefused
from app.limits.shared_memory import SharedBuckets, SharedMemory
from app.process_lock import ProcessLock
from app.server.worker_links import WorkerLink
from app.settings import Settings
from app.telemetry.logs import configure_logging
from app.urls import SqliteUrl, parse_database_url

# Which bytes of the shared file are locks; byte 0 is that of the limits
WRITE_BYTE, LOG_BYTE = 1, 2
LOCK_SECONDS, LOCK_PAUSE = 1.0, 0.0002
REFUSED = 2  # the exit code of a worker that does not start


@dataclass(frozen=True, slots=True)
class WorkerJob:
    """The arguments of a worker process.

    `listener` is the socket that all accepting workers listen on; the delivering one has none.
    `link_end` is the worker's end of its link to the supervisor, `memory` what all workers
    share. `delivery`: the worker without a listener delivers.
    """

    name: str
    settings: Settings
    listener: socket.socket | None
    link_end: socket.socket
    memory: SharedMemory
    delivery: bool


def prepare_in_worker(settings: Settings, result: Connection) -> None:
    """Do what may refuse the start; send the reason or None, and the names of the apps."""
    from app.apps import read_apps
    from app.server.preparation import prepare

    flush_log = configure_logging(settings.gateway_log_level, settings.gateway_log_format)
    try:
        prepare(settings)
    except StartRefused as error:
        result.send((str(error), ()))
    else:
        result.send((None, list(read_apps(settings))))
    finally:
        flush_log()


def run_worker(job: WorkerJob) -> None:
    """Run a worker until the supervisor stops it, or is gone."""
    from app.server import run
    from app.server.bootstrap import Shared
    from app.server.preparation import check_start_files

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they are for the supervisor
    settings = job.settings
    flush_log = configure_logging(
        settings.gateway_log_level,
        settings.gateway_log_format,
        lock=_lock(job.memory, LOG_BYTE),
    )
    shared = Shared(SharedBuckets(time.monotonic, job.memory), _write_turn(job))
    link = WorkerLink(job.name, job.link_end)
    try:
        check_start_files(settings)
        if job.listener is None:
            run.deliver_in_worker(settings, link, shared, delivery=job.delivery)
        else:
            run.serve_in_worker(settings, job.listener, link, shared)
    except StartRefused as error:
        link.refuse(str(error))
        flush_log()
        os._exit(REFUSED)
    finally:
        flush_log()


def _write_turn(job: WorkerJob) -> ProcessLock | None:
    """Return the turn to write on SQLite; on PostgreSQL there is none.

    It is about fairness alone: SQLite's own lock keeps writers apart, but waits with growing
    pauses, so that one process could keep the others from it for seconds.
    """
    if not isinstance(parse_database_url(job.settings.gateway_database_url), SqliteUrl):
        return None
    return _lock(job.memory, WRITE_BYTE)


def _lock(memory: SharedMemory, byte: int) -> ProcessLock:
    return ProcessLock(memory.descriptor, byte, wait_seconds=LOCK_SECONDS, pause_seconds=LOCK_PAUSE)
