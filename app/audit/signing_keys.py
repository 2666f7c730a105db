"""The keys of the audit, and the check that a database's audit was made with them.

Nothing is written to an audit, or read from it, with the keys of another.
"""

import re
from dataclasses import dataclass, field

from sqlalchemy import Engine

from app.audit.key_derivation import make_root_key, stored_root_key
from app.audit.records import AuditMacs, UserPseudonyms
from app.audit.row_macs import initialize_sets, initialize_sets_within
from app.audit.tree import (
    NEWEST,
    CheckpointSigner,
    Fetch,
    PublicKey,
    fetcher,
    read_tree,
    read_written,
)
from app.database.engine import snapshot, transaction
from app.errors import StartRefused

LOG_NAME = re.compile(r"leanplum-gateway/[0-9a-f]{16}")  # the name in a gateway's checkpoints
ANY_RECORD = "SELECT 1 FROM audit_records LIMIT 1"
OTHER_KEY = (
    "GATEWAY_AUDIT_KEY: this database's audit was signed, and its users hashed, with another key; "
    "set that one"
)
NOT_SET = (
    "GATEWAY_AUDIT_KEY: is not set, and the database does not keep the key that its audit was made "
    "with; set it"
)
NO_KEY = (
    "GATEWAY_AUDIT_KEY: is not set, and the database keeps no key: nothing was recorded there yet"
)
OTHER_KEY_STORED = (
    "GATEWAY_AUDIT_KEY: records were made with the key that this database keeps, which is another "
    "one; set that one (`audit key --move` shows it)"
)


@dataclass(frozen=True, slots=True)
class AuditKeys:
    """The keys derived from one root key: for signing, for MACs, for the hashes of users.

    `stored` tells whether the database keeps the root key.
    """

    root_key: bytes = field(repr=False)
    signer: CheckpointSigner
    macs: AuditMacs
    pseudonyms: UserPseudonyms
    stored: bool

    @classmethod
    def derive(cls, root_key: bytes, *, stored: bool = False) -> "AuditKeys":
        """Return the keys of a root key."""
        return cls(
            root_key,
            CheckpointSigner(root_key),
            AuditMacs(root_key),
            UserPseudonyms(root_key),
            stored,
        )


def load_keys_to_write(engine: Engine, given: bytes | None) -> AuditKeys:
    """Return the keys to write records with, and initialize a new database for them.

    The root key is the setting's (`given`), else the one that the database keeps; in a new database
    one is made. Raises StartRefused, before anything is written, where records were made with
    another key.
    """
    with snapshot(engine) as connection:
        keys = _existing_keys(fetcher(connection), given)
    if keys is None:
        return _make_keys(engine)
    initialize_sets(engine, keys.macs.rows)
    return keys


def _existing_keys(fetch: Fetch, given: bytes | None) -> AuditKeys | None:
    """Return the keys of the setting or the database; None where one may be made."""
    stored, newest = stored_root_key(fetch), fetch(NEWEST, ())
    only_unsealed = not newest and bool(fetch(ANY_RECORD, ()))
    if given is None and stored is None and (newest or only_unsealed):
        raise StartRefused(NOT_SET)
    if given is not None and stored not in {None, given} and only_unsealed:
        raise StartRefused(OTHER_KEY_STORED)
    root_key = given or stored
    if root_key is None:
        return None
    return _refuse_other_key(fetch, AuditKeys.derive(root_key, stored=root_key == stored))


def _make_keys(engine: Engine) -> AuditKeys:
    """Make a root key and the digests of a new database together.

    Of two processes that do so at once, both get the same key.
    """
    with transaction(engine) as cursor:
        keys = AuditKeys.derive(make_root_key(cursor), stored=True)
        initialize_sets_within(cursor, keys.macs.rows)
    return keys


def load_keys_to_read(fetch: Fetch, given: bytes | None) -> AuditKeys:
    """Return the keys to read an audit with; none are ever made.

    Raises StartRefused where there is no key, or only one that did not sign the newest checkpoint.
    """
    root_key = given or stored_root_key(fetch)
    if root_key is None:
        raise StartRefused(NO_KEY if is_nothing_recorded(fetch) else NOT_SET)
    return _refuse_other_key(fetch, AuditKeys.derive(root_key))


def is_nothing_recorded(fetch: Fetch) -> bool:
    """Return whether the database has no trace of a record or of a checkpoint."""
    tree = read_tree(fetch)
    if read_written(fetch) or tree.size or tree.statement:
        return False
    return not fetch(ANY_RECORD, ()) and not fetch(NEWEST, ())


def _refuse_other_key(fetch: Fetch, keys: AuditKeys) -> AuditKeys:
    newest = fetch(NEWEST, ())
    if newest and _is_of_other_key(newest[0][2], keys.signer.public):
        raise StartRefused(OTHER_KEY)
    return keys


def _is_of_other_key(note: object, public: PublicKey) -> bool:
    """Return whether a checkpoint names another signer; a damaged one does not prevent a start."""
    name = str(note).partition("\n")[0]
    return name != public.name and LOG_NAME.fullmatch(name) is not None
