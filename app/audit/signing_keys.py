"""The keys of one audit, and whose the audit of a database is: nothing is written, or told of it,
with another's.
"""

import re
from dataclasses import dataclass, field

from sqlalchemy import Engine

from app.audit import key_derivation as seed
from app.audit import row_adopting
from app.audit.checkpoints import PublicKey, Signer
from app.audit.pseudonyms import Pseudonyms
from app.audit.record_macs import Marks
from app.audit.tree import NEWEST, Fetch, fetcher, read, written_of
from app.database.engine import snapshot
from app.errors import StartRefused

GATEWAY = re.compile(r"leanplum-gateway/[0-9a-f]{16}")  # the name of one that signs
RECORDED = "SELECT 1 FROM audit_records LIMIT 1"
MARKED = "SELECT 1 FROM audit_records WHERE mark IS NOT NULL LIMIT 1"
ANOTHER = "GATEWAY_AUDIT_KEY: this database's audit was signed, and its users hashed, with another key; set that one"
NOT_SET = "GATEWAY_AUDIT_KEY: is not set, and the database doesn't keep the key that its audit was made with; set it"
NO_KEY = (
    "GATEWAY_AUDIT_KEY: is not set, and the database keeps no key: nothing was recorded there yet"
)
KEEPS = (
    "GATEWAY_AUDIT_KEY: records were made with the key that this database keeps, which is another one; set that one "
    "(`audit key --move` shows it)"
)


@dataclass(frozen=True, slots=True)
class Keys:
    """All that is made of one seed: what signs, what marks records, what hashes users. `kept`:
    whether the database keeps the seed.
    """

    seed: bytes = field(repr=False)
    signer: Signer
    marks: Marks
    pseudonyms: Pseudonyms
    kept: bool

    @classmethod
    def of(cls, made_of: bytes, *, kept: bool = False) -> "Keys":
        """Those of a seed."""
        return cls(made_of, Signer(made_of), Marks(made_of), Pseudonyms(made_of), kept)


def to_write(engine: Engine, given: bytes | None) -> Keys:
    """Return the keys for whoever writes records, as `_to_write` does. Rows that have no MAC yet,
    since the database was just made or migrated, get theirs first.
    """
    keys = _to_write(engine, given)
    row_adopting.begin(engine, keys.marks)
    return keys


def _to_write(engine: Engine, given: bytes | None) -> Keys:
    """For whoever writes records: made of the setting's seed (`given`), else of the one that the
    database keeps; one is made there where nothing was recorded yet. Raises StartRefused, before
    anything is written, where what was recorded was so with another.
    """
    with snapshot(engine) as connection:
        fetch = fetcher(connection)
        own, newest = seed.kept(fetch), fetch(NEWEST, ())
        marked = bool(not newest and fetch(MARKED, ()))
        if given is None and own is None and (newest or marked):
            raise StartRefused(NOT_SET)
        if given is not None and own not in {None, given} and marked:
            raise StartRefused(KEEPS)
        if made_of := given or own:
            return _not_another(fetch, Keys.of(made_of, kept=made_of == own))
    return Keys.of(seed.made(engine), kept=True)


def to_read(fetch: Fetch, given: bytes | None) -> Keys:
    """The same for whoever only reads: nothing is ever made. Raises StartRefused where there is no
    key, or only one that the newest checkpoint wasn't signed with.
    """
    made_of = given or seed.kept(fetch)
    if made_of is None:
        raise StartRefused(NO_KEY if nothing_recorded(fetch) else NOT_SET)
    return _not_another(fetch, Keys.of(made_of))


def nothing_recorded(fetch: Fetch) -> bool:
    """Return whether no trace of a record or of a checkpoint is in the database."""
    tree = read(fetch)
    traces = written_of(fetch), tree.size, tree.statement, fetch(RECORDED, ()), fetch(NEWEST, ())
    return not any(traces)


def _not_another(fetch: Fetch, keys: Keys) -> Keys:
    newest = fetch(NEWEST, ())
    if newest and _is_another(newest[0][2], keys.signer.public):
        raise StartRefused(ANOTHER)
    return keys


def _is_another(note: object, public: PublicKey) -> bool:
    """Whether the note says that another gateway signed it. One that was damaged is no reason not
    to start.
    """
    name = str(note).partition("\n")[0]
    return name != public.name and GATEWAY.fullmatch(name) is not None
