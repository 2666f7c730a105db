"""Checks before the start: settings, files, the database, and the first caller key."""

import structlog
from sqlalchemy import Engine

from app.apps import read_apps
from app.audit.signing_keys import AuditKeys, load_keys_to_write
from app.callers import key_format as keys
from app.callers.store import KeyStore, every_key
from app.clock import now_ms
from app.database.engine import connect, connect_to_read
from app.encryption import BodyCipher, open_body_cipher
from app.enrichment.service import check_files
from app.errors import Refusal, StartRefused
from app.limits.valkey import check_certificate
from app.outbox import liveness_lock
from app.settings import Settings
from app.telemetry import traces
from app.tracking.plan_files import LoadedPlans

BOOTSTRAP = {
    "unknown": (
        "GATEWAY_BOOTSTRAP_KEY differs from the keys that are stored already, so it is ignored"
    ),
    "ended": "GATEWAY_BOOTSTRAP_KEY is revoked, rotated or expired, so it opens nothing",
}
BOOTSTRAP_ADVICE = (
    "unset it, or set it to the stored key; `keys create` makes another, `keys list` shows those "
    "stored"
)

log = structlog.get_logger("gateway")


def prepare(settings: Settings, *, calls: bool = True) -> None:
    """Check all that may refuse a start, before there is a server, and make the first key.

    Apps are configured, files can be read, and the database opens; the server of shared limits is
    trusted, if this gateway serves `calls`. Raises StartRefused.
    """
    check_start_files(settings)
    check_bootstrap_key(settings)
    traces.wanted()
    _ = settings.route
    if calls and settings.gateway_shared_limits_url is not None:
        check_certificate(settings.gateway_shared_limits_url.get_secret_value())
    engine = connect(settings.gateway_database_url)
    try:
        _log_encryption(body_cipher(settings, engine))
        store = KeyStore(engine, audit_keys(settings, engine).macs)
        make_first_key(settings, store)
        _warn_of_ignored_key(settings, store)
        _warn_without_keys(store)
        liveness_lock.check(settings.gateway_database_url)
    finally:
        engine.dispose()


def check_start_files(settings: Settings) -> None:
    """Raise StartRefused if the apps, the tracking plan or the enrichment cannot be read."""
    read_apps(settings)
    LoadedPlans(settings.gateway_tracking_plan)
    check_files(settings.gateway_enrichment_file, settings.gateway_maxmind_file)


def body_cipher(settings: Settings, engine: Engine) -> BodyCipher:
    """Return what encrypts the bodies of items. Raises StartRefused for a missing key."""
    return open_body_cipher(engine, settings.data_keys, settings.encryption_key_id)


def _log_encryption(cipher: BodyCipher) -> None:
    """Log whether the bodies of items are encrypted."""
    if cipher.active_key_id is None:
        log.warning(
            "bodies.unencrypted",
            hint="set GATEWAY_DATA_KEY, and what waits is encrypted on the disk",
        )
    else:
        log.info("bodies.encrypted", key=cipher.active_key_id)


def check_bootstrap_key(settings: Settings) -> None:
    """Raise StartRefused for a malformed bootstrap key, before a database is made for it.

    When there are keys already, it is ignored whatever its form.
    """
    key = settings.gateway_bootstrap_key
    if key is None or keys.well_formed(key.get_secret_value()) or _has_keys(settings):
        return
    raise StartRefused(f"GATEWAY_BOOTSTRAP_KEY: {keys.MALFORMED}")


def _has_keys(settings: Settings) -> bool:
    """Tell whether there is a database with keys; none is made, and none is migrated."""
    try:
        engine = connect_to_read(settings.gateway_database_url)
    except StartRefused:
        return False
    try:
        return bool(every_key(engine))
    finally:
        engine.dispose()


def make_first_key(settings: Settings, store: KeyStore) -> None:
    """Make the first key, when one is configured and none exists. Raises StartRefused."""
    key = settings.gateway_bootstrap_key
    if key is None:
        return
    try:
        stored = store.bootstrap(key.get_secret_value(), now_ms())
    except Refusal as error:
        raise StartRefused(f"GATEWAY_BOOTSTRAP_KEY: {error.detail}") from None
    if stored is not None:
        log.info("key.bootstrapped", key_id=stored.caller.key_id)


def _warn_of_ignored_key(settings: Settings, store: KeyStore) -> None:
    """Warn when the bootstrap key is not valid: it is stored at the first start only."""
    key = settings.gateway_bootstrap_key
    if key is None:
        return
    standing = store.standing(key.get_secret_value(), now_ms())
    if standing != "usable":
        log.warning("key.bootstrap_ignored", reason=BOOTSTRAP[standing], advice=BOOTSTRAP_ADVICE)


def _warn_without_keys(store: KeyStore) -> None:
    """Warn at the start if no caller key exists yet, and say how to create one."""
    if not store.page(None, 1):
        log.warning(
            "keys.none",
            reason="no caller key exists yet, so every call is refused",
            advice="run `leanplum-gateway keys create --name NAME`, or set GATEWAY_BOOTSTRAP_KEY",
        )


def audit_keys(settings: Settings, engine: Engine) -> AuditKeys:
    """Return the keys that sign the audit, authenticate its records, and hash users' ids for it.

    Raises StartRefused when the audit was made with another key.
    """
    return load_keys_to_write(engine, settings.audit_root_key)
