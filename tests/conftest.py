"""What the tests of several folders share.

    gateway   a running gateway (no delivery) with wide limits, one for a whole module: for tests that leave no trace
    start     starts a gateway of one's own: start(gateway_rate_burst=3, delivery=False); closed after the test
    settings  makes Settings on a new, migrated SQLite file: settings(name=value, …)
    database  the URL of a migrated database with nothing in it; the test runs once on each kind
    valkey    a running Valkey of the test's own, with nothing in it
    path      a migrated SQLite file with nothing in it
    visit     opens pages in Chromium: visit(url, dark=True, width=390); see support/browser.py

`Talk` (support/gateway.py) is what the first two give: `talk.event({...})`, `talk.batch([...])`,
`talk.get(url)`, `talk.rows(sql)`.
"""

import gc
import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path

import certifi
import hypothesis
import pytest
from httpx._config import DEFAULT_TIMEOUT_CONFIG
from playwright.sync_api import Browser

from app.database.engine import connect
from app.settings import Settings
from tests.support import alone, markers, sampled
from tests.support.browser import Visit, launched, visiting
from tests.support.chromium import CHROMIUM, NEEDED, NO_CHROMIUM
from tests.support.gateway import WIDE, Talk, make_settings, running
from tests.support.postgres import Server, postgresql
from tests.support.valkey import Valkey
from tests.support.valkey import valkey as running_valkey

TURNS = pytest.StashKey[alone.Turns]()

# The time of one example says how busy the machine is
hypothesis.settings.register_profile("gateway", deadline=None)
hypothesis.settings.load_profile("gateway")


@pytest.hookimpl(tryfirst=True)  # before `-m` looks at the markers
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out cases that only `make soak` runs, mark tests with what they start and measure, and
    put those that measure time first.
    """
    run, left = sampled.split(items)
    config.hook.pytest_deselected(items=left)
    markers.mark(run)
    items[:] = alone.first(run)


def pytest_collection_finish() -> None:
    """Keep what was collected out of the garbage collector, which would look at all of it again
    and again.
    """
    gc.collect()
    gc.freeze()


def pytest_configure(config: pytest.Config) -> None:
    """Let the workers of a run take turns."""
    if hasattr(config, "workerinput"):
        config.stash[TURNS] = alone.Turns()


@pytest.hookimpl(wrapper=True, tryfirst=True)  # the wait for a turn is no part of the test's time
def pytest_runtest_protocol(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, object, object]:
    """Run tests that measure time alone."""
    turns = item.config.stash.get(TURNS, None)
    with turns.turn(item, nextitem) if turns else nullcontext():
        return (yield)


@pytest.fixture(scope="session", autouse=True)
def few_authorities(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Trust one public authority, not all: to read them takes 20 ms for each TLS context, of which
    each gateway and each HTTP client of a test makes one or two.
    """
    first, end, _ = Path(certifi.where()).read_text().partition("-----END CERTIFICATE-----")
    path = tmp_path_factory.mktemp("authorities") / "one.pem"
    path.write_text(first + end)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certifi, "where", lambda: str(path))
        yield


@pytest.fixture(scope="session", autouse=True)
def patient_clients() -> Iterator[None]:
    """Let the tests' own HTTP clients wait for a minute: a busy machine may stand still for longer
    than httpx's five seconds.
    """
    with pytest.MonkeyPatch.context() as patch:
        for part in ("connect", "read", "write", "pool"):
            patch.setattr(DEFAULT_TIMEOUT_CONFIG, part, 60.0)
        yield


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database file with the newest schema and nothing in it: copying it is faster than migrating
    each time.
    """
    path = tmp_path_factory.mktemp("template") / "g.db"
    connect(f"sqlite:///{path}").dispose()
    return path


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Server]:
    """A PostgreSQL of this test process."""
    with postgresql() as server:
        yield server


@pytest.fixture
def path(tmp_path: Path, migrated: Path) -> Path:
    """A SQLite file of the test's own."""
    return Path(shutil.copy(migrated, tmp_path / "g.db"))


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Iterator[str]:
    """A database of the test's own, of each kind in turn."""
    if request.param == "sqlite":
        yield f"sqlite:///{request.getfixturevalue('path')}"
        return
    server: Server = request.getfixturevalue("postgresql_server")
    url = server.empty()
    yield url
    server.drop(url)


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    """A Valkey that the test may kill."""
    with running_valkey() as server:
        yield server


@pytest.fixture
def settings(tmp_path: Path, migrated: Path) -> Callable[..., Settings]:
    """Makes Settings on the test's own database; `name=value` overrides."""
    return lambda **given: make_settings(tmp_path, migrated, given)


@pytest.fixture
def start(settings: Callable[..., Settings], tmp_path: Path) -> Iterator[Callable[..., Talk]]:
    """Starts a gateway with these settings on the test's own database."""
    with ExitStack() as stack:
        yield lambda *, delivery=False, **given: stack.enter_context(
            running(settings(**given), tmp_path / "g.db", delivery=delivery)
        )


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Iterator[Talk]:
    """One gateway for a module, whose limits no test meets."""
    directory = tmp_path_factory.mktemp("gateway")
    with running(make_settings(directory, migrated, dict(WIDE)), directory / "g.db") as talk:
        yield talk


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium for a module; its tests are skipped where there is none."""
    if CHROMIUM is None and not NEEDED:
        pytest.skip(NO_CHROMIUM)
    with launched() as running_browser:
        yield running_browser


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """Opens pages in Chromium, and fails the test for errors in them."""
    with visiting(browser) as opener:
        yield opener
