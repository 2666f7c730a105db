"""The commands about caller keys: `keys create|list|patch|rotate|revoke`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.common import engine_to_read, engine_to_write, given, load_settings, with_options
from app.cli.output import AsJson, print_json, print_rows, print_text
from app.clock import now_ms
from app.errors import Invalid, StartRefused
from app.model import Scope

if TYPE_CHECKING:
    from app.callers.store import KeyStore, StoredKey

keys_cli = typer.Typer(help="Manage caller keys.", no_args_is_help=True)

DAY_MS = 86_400_000
KeyId = Annotated[str, typer.Argument(help="The id of the key, as `keys list` shows it")]
# The options that are checked as the fields of the API are, by the names of the fields
FIELD_OPTIONS = {
    "name": "--name",
    "apps": "--app",
    "ratePerSecond": "--rate-per-second",
    "rateBurst": "--rate-burst",
}


@dataclass(frozen=True)
class KeyOptions:
    """The options of `keys create`."""

    name: Annotated[str, typer.Option(help="The name of the caller")]
    scope: Annotated[
        list[str] | None, typer.Option(help="A scope; may be repeated; default: every scope")
    ] = None
    app: Annotated[
        list[str] | None,
        typer.Option(help="An app that it may use; may be repeated; default: every app"),
    ] = None
    expires_in_days: Annotated[
        int | None, typer.Option(min=1, max=36_500, help="Days until it expires; default: never")
    ] = None
    rate_per_second: Annotated[
        int | None, typer.Option(min=1, help="Its own rate limit, in items per second")
    ] = None
    rate_burst: Annotated[int | None, typer.Option(min=1, help="Its own burst limit, in items")] = (
        None
    )


@dataclass(frozen=True)
class KeyChanges:
    """The options of `keys patch`; whatever is not given stays as it is."""

    name: Annotated[str | None, typer.Option(help="The new name of the caller")] = None
    scope: Annotated[
        list[str] | None, typer.Option(help="A scope that replaces the old ones; may be repeated")
    ] = None
    app: Annotated[
        list[str] | None, typer.Option(help="An app that replaces the old ones; may be repeated")
    ] = None
    every_app: Annotated[bool, typer.Option("--every-app", help="Allow every app")] = False
    expires_in_days: Annotated[
        int | None, typer.Option(min=0, max=36_500, help="Days until it expires; 0: never")
    ] = None
    rate_per_second: Annotated[
        int | None,
        typer.Option(min=0, help="Its own rate limit; 0: the limit of the gateway"),
    ] = None
    rate_burst: Annotated[
        int | None, typer.Option(min=0, help="Its own burst limit; 0: derived from its rate limit")
    ] = None


@keys_cli.command("create")
@with_options
def create_key(options: KeyOptions, as_json: AsJson = False) -> None:
    """Create a key. It is shown only once."""
    now = now_ms()
    expires_at = now + options.expires_in_days * DAY_MS if options.expires_in_days else None
    scopes = _scopes(options.scope) if options.scope else frozenset(Scope)
    _check_fields(
        name=options.name,
        apps=options.app,
        ratePerSecond=options.rate_per_second,
        rateBurst=options.rate_burst,
    )
    with _store(make_database=True) as store:
        key, stored = store.create(
            options.name,
            scopes,
            options.app,
            now,
            expires_at=expires_at,
            rate_per_second=options.rate_per_second,
            rate_burst=options.rate_burst,
        )
    _print_new_key(key, stored, as_json=as_json)


@keys_cli.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """List all keys, without the keys themselves."""
    from app.callers.store import every_key

    with engine_to_read(load_settings()) as engine:
        documents = [_document(stored) for stored in every_key(engine)]
    header = ("ID", "LAST FOUR", "NAME", "CREATED", "LAST USED", "ENDS", "SCOPES")
    print_rows(documents, header, _row, as_json=as_json, empty="No keys.")


def _row(document: dict[str, Any]) -> tuple[str, ...]:
    ends = document["expiresAt"] or "-"
    if document["revokedAt"]:
        ends = f"revoked {document['revokedAt']}"
    return (
        document["id"],
        f"…{document['lastFour']}",
        document["name"],
        document["createdAt"],
        document["lastUsedAt"] or "-",
        ends,
        " ".join(document["scopes"]),
    )


@keys_cli.command("patch")
@with_options
def change_key(key_id: KeyId, options: KeyChanges, as_json: AsJson = False) -> None:
    """Change a key. Whatever is not given stays as it is."""
    now = now_ms()
    changes = _changes(options)
    expiry: dict[str, Any] = {}
    if options.expires_in_days is not None:
        days = options.expires_in_days
        expiry["expires_at"] = now + days * DAY_MS if days else None
    with _store() as store:
        stored = store.change(key_id, now, changes, **expiry)
    if as_json:
        print_json(_document(stored))
    else:
        print_text(f"Key {stored.caller.key_id} changed.")


def _changes(options: KeyChanges) -> dict[str, Any]:
    """Return the changes by field of the caller; a limit of 0 removes the limit."""
    _check_fields(
        name=options.name,
        apps=options.app,
        ratePerSecond=options.rate_per_second or None,
        rateBurst=options.rate_burst or None,
    )
    changes = given(
        name=options.name,
        scopes=_scopes(options.scope) if options.scope else None,
        apps=frozenset(options.app) if options.app else None,
    )
    if options.every_app:
        changes["apps"] = None
    limits = given(rate_per_second=options.rate_per_second, rate_burst=options.rate_burst)
    return changes | {name: limit or None for name, limit in limits.items()}


@keys_cli.command("rotate")
def rotate_key(
    key_id: KeyId,
    overlap_seconds: Annotated[
        int, typer.Option(min=0, max=2_592_000, help="How long the old key keeps working")
    ] = 86_400,
    as_json: AsJson = False,
) -> None:
    """Give a caller a new key under the same id.

    The new key is shown only once. The old one keeps working during the overlap.
    """
    with _store() as store:
        key, stored = store.rotate(key_id, now_ms(), overlap_seconds * 1000)
    assert key is not None  # only a repeated call of the API has none
    _print_new_key(key, stored, as_json=as_json)


@keys_cli.command("revoke")
def revoke_key(key_id: KeyId, as_json: AsJson = False) -> None:
    """Revoke a key. Every process refuses it within a second."""
    with _store() as store:
        store.revoke(key_id, now_ms())
    if as_json:
        print_json({"id": key_id, "revoked": True})
    else:
        print_text(f"Key {key_id} revoked.")


def _check_fields(**fields: Any) -> None:
    """Validate options as the API validates its fields. Raises StartRefused."""
    from app.api.keys import CHANGE
    from app.ingest import validate

    try:
        validate.checked(CHANGE, given(**fields))
    except Invalid as refusal:
        reasons = [
            f"{FIELD_OPTIONS[fault.pointer.split('/')[1]]}: {fault.detail}"
            for fault in refusal.faults
        ]
        raise StartRefused("; ".join(reasons)) from None


def _scopes(names: list[str]) -> frozenset[Scope]:
    unknown = sorted(set(names) - {scope.value for scope in Scope})
    if unknown:
        raise StartRefused(f"--scope: must be one of {', '.join(Scope)}; not {', '.join(unknown)}")
    return frozenset(Scope(name) for name in names)


def _print_new_key(key: str, stored: "StoredKey", *, as_json: bool) -> None:
    if as_json:
        print_json(_document(stored, key))
    else:
        print_text(f"{key}\n\nThe key has the id {stored.caller.key_id}. It is not shown again.")


def _document(stored: "StoredKey", key: str | None = None) -> dict[str, Any]:
    """Return a key as the API shows it."""
    from app.api.keys import key_document

    return key_document(stored, key)


@contextmanager
def _store(*, make_database: bool = False) -> "Iterator[KeyStore]":
    """Open the store of keys. Without `make_database`, the database must exist already."""
    from app.audit import signing_keys
    from app.callers.store import KeyStore

    settings = load_settings()
    with engine_to_write(settings, make_database=make_database) as engine:
        yield KeyStore(
            engine, signing_keys.load_keys_to_write(engine, settings.audit_root_key).macs
        )
