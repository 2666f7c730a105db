"""Markers that follow from what a test can reach, so that nobody has to keep them up to date.

A test reaches what its function, its fixtures and their helpers in tests/ and bench/ name in their
code.
"""

import inspect
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest

from app.server.application import create_app
from tests.support import (
    browser,
    chromium,
    fork_server,
    gateway,
    http_server,
    pgbouncer,
    postgres,
    postgres_cluster,
    valkey,
)

ROOT = Path(__file__).resolve().parents[2]
OURS = (f"{ROOT}/tests/", f"{ROOT}/bench/")
# By marker, what a test that has it reaches.
STARTERS: dict[str, tuple[Any, ...]] = {
    "gateway": (gateway.running, http_server.served, create_app),
    "process": (fork_server.ForkServer, subprocess.Popen, subprocess.run),
    "server": (postgres.postgresql, postgres_cluster.Node, pgbouncer.pgbouncer, valkey.valkey),
    "browser": (chromium.command, browser.launched),
}
# Clocks that tests measure with. `monotonic` is not one of them: most tests bound a wait with it.
CLOCKS = frozenset({"perf_counter", "process_time", "thread_time"})
REACHED = {name: {inspect.unwrap(one) for one in starters} for name, starters in STARTERS.items()}
FOLDERS = {"sdk": "sdk", "segment": "sdk", "attacks": "slow", "simulation": "slow"}


def mark(items: Iterable[pytest.Item]) -> None:
    """Mark each test with what it starts, whether it measures time, and what its folder is
    about.
    """
    for item in items:
        if isinstance(item, pytest.Function):
            for name in sorted(_markers(item)):
                item.add_marker(name)


def _markers(item: pytest.Function) -> Iterator[str]:
    fixtures = [one.func for defs in item._fixtureinfo.name2fixturedefs.values() for one in defs]
    values = getattr(item, "callspec", _Unparametrized).params.values()
    functions = [value for value in values if inspect.isfunction(value)]
    reached = frozenset().union(*map(_reached, [item.function, *fixtures, *functions]))
    for name, starters in REACHED.items():
        if reached & starters:
            yield name
    if "postgresql" in values:
        yield "server"
    if CLOCKS & reached and not item.get_closest_marker("timed"):
        yield "timed"
    folder = item.path.parent.name
    if folder in FOLDERS:
        yield FOLDERS[folder]


class _Unparametrized:
    params: dict[str, object] = {}  # noqa: RUF012


@cache
def _reached(function: Any) -> frozenset[Any]:
    """Return the starters, and the clocks, that a function, or one that it names, names."""
    wanted = set[Any]().union(*REACHED.values())
    seen, waiting, reached = set[int](), [function], set[Any]()
    while waiting:
        one = inspect.unwrap(waiting.pop())
        if id(one) in seen:
            continue
        seen.add(id(one))
        if not (inspect.isroutine(one) or inspect.isclass(one)):
            continue
        if one in wanted:
            reached.add(one)
        elif _is_ours(one):
            waiting += _named(one)
            reached |= _clocks(one)
    return frozenset(reached)


def _clocks(one: Any) -> frozenset[str]:
    """Return the names of the clocks that a function of a file of tests reads."""
    code = getattr(one, "__code__", None)
    if code is None or not Path(code.co_filename).name.startswith("test_"):
        return frozenset()
    return CLOCKS & set(_names(code))


def _is_ours(one: Any) -> bool:
    """Return whether a function or class is of tests/ or bench/.

    The file tells, since pytest names modules in two ways.
    """
    module = sys.modules.get(getattr(one, "__module__", None) or "")
    return str(getattr(module, "__file__", "")).startswith(OURS)


def _named(one: Any) -> Iterator[Any]:
    """Yield the objects that the code of a function, or of a class's methods, names."""
    if inspect.isclass(one):
        yield from (getattr(each, "fget", each) for each in vars(one).values())
        yield from one.__bases__
    if not isinstance(one, FunctionType):
        return
    names = set(_names(one.__code__))
    for name in names:
        value = one.__globals__.get(name)
        if isinstance(value, ModuleType):
            yield from (getattr(value, each) for each in names if hasattr(value, each))
        elif isinstance(value, dict):
            yield from value.values()
        elif callable(value):
            yield value


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
