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

from app.database.write_turn import WriteTurn
from app.errors import StartRefused
from app.limits.shared_memory import SharedBuckets, SharedMemory
from app.server.worker_links import WorkerLink
from app.settings import Settings
from app.telemetry.logs import configure_logging
from app.urls import SqliteUrl, parse_database_url


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

    # A terminal's Ctrl-C is for the supervisor, which stops its workers in order.
    os.setpgrp()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    settings = job.settings
    flush_log = configure_logging(settings.gateway_log_level, settings.gateway_log_format)
    on_sqlite = isinstance(parse_database_url(settings.gateway_database_url), SqliteUrl)
    shared = Shared(
        SharedBuckets(time.monotonic, job.memory),
        WriteTurn(job.memory.descriptor) if on_sqlite else None,
    )
    link = WorkerLink(job.name, job.link_end, on_end=_stop_this_process)
    try:
        if job.listener is None:
            run.deliver_in_worker(settings, link, shared, delivery=job.delivery)
        else:
            run.serve_in_worker(settings, job.listener, link, shared)
    finally:
        flush_log()


def _stop_this_process() -> None:
    """Stop without the drain time: no proxy has to notice, and the next start needs the port."""
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGTERM)
