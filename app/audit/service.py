"""Reading of the audit by a caller, over HTTP or in the console: search, checkpoints and proofs."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import orjson
from sqlalchemy import Connection, Engine

from app.audit import erasure_statements, proofs, record_search, records, tree
from app.database.driver import in_time
from app.database.engine import snapshot
from app.errors import AuditBroken, Forbidden, NotFound, StorageUnavailable
from app.ids import plain
from app.model import Caller, Scope

T = TypeVar("T")
STATEMENT_SECONDS = 3.0  # that the response to a deletion waits for its record to be sealed
POLL_SECONDS = 0.1  # between looks at what another process may have sealed
NO_ERASURE = (
    "No erasure that this key may see has this number, or it is older than GATEWAY_AUDIT_SECONDS."
)


@dataclass(frozen=True, slots=True)
class RecordQuestion:
    """A search for records; None selects all. Times are in milliseconds.

    `user_id` and `device_id` are hashed for the search: a record names neither.
    """

    since: int | None = None
    until: int | None = None
    key_id: str | None = None
    app: str | None = None
    user_id: str | None = None
    device_id: str | None = None
    user_hash: str | None = None
    action: str | None = None
    outcome: record_search.Outcome | None = None
    request_id: str | None = None
    resource: str | None = None


class AuditService:
    """The audit, as far as a caller may see it: the records of their apps.

    All methods raise StorageUnavailable.
    """

    def __init__(
        self,
        engine: Engine,
        public_key: tree.PublicKey,
        pseudonyms: records.UserPseudonyms,
        app_names: Callable[[], Iterable[str]],
    ) -> None:
        """Take `app_names`, which returns the names of all apps, even of those removed since."""
        self._engine, self.public_key = engine, public_key
        self._pseudonyms, self._app_names = pseudonyms, app_names
        self._waiting_is_over = asyncio.Event()  # set at shutdown: nobody waits for a seal

    async def search(
        self,
        caller: Caller,
        question: RecordQuestion,
        *,
        after: int | None,
        limit: int,
        oldest_first: bool = False,
    ) -> record_search.RecordPage:
        """Return a page of records after a record number. Raises Forbidden for another's app."""
        if question.app is not None and not caller.may_use(question.app):
            raise Forbidden("Forbidden: this key is not valid for this app")
        return await self._read(
            partial(
                record_search.find_page,
                record_filter=self._record_filter(caller, question),
                after=after,
                limit=limit,
                oldest_first=oldest_first,
            )
        )

    async def newest_checkpoint(self) -> proofs.SealedTree:
        """Return the newest checkpoint. Raises NotFound, AuditBroken."""
        return await self._read(partial(proofs.newest_checkpoint, public=self.public_key))

    async def consistency(self, old: int, new: int) -> list[bytes]:
        """Return the proof between two checkpoints. Raises NotFound, AuditBroken."""
        return await self._read(
            partial(proofs.consistency, public=self.public_key, old=old, new=new)
        )

    async def record(self, caller: Caller, record_id: int) -> str:
        """Return the text of a record, whether or not it is sealed. Raises NotFound."""
        return await self._read(partial(proofs.record_text, seq=record_id, apps=caller.apps))

    async def inclusion(self, caller: Caller, record_id: int) -> proofs.RecordProof:
        """Return a record with the verified proof that it is in the newest checkpoint's tree.

        Raises NotFound, AuditBroken.
        """
        inclusion = partial(proofs.inclusion, public=self.public_key, seq=record_id)
        return await self._read(partial(inclusion, apps=caller.apps))

    async def erasure_statement(self, caller: Caller, record_id: int) -> dict[str, Any]:
        """Return the signed statement of an erasure that the caller's key has made.

        A key that may read the audit gets those of other keys, too. Raises NotFound, also while the
        record is not sealed; AuditBroken.
        """
        proof = await self.inclusion(caller, record_id)
        if not erasure_statements.states_erasure(proof.record):
            raise NotFound(NO_ERASURE)
        actor = orjson.loads(proof.record)["actor"]["user"]["uid"]
        if actor != caller.key_id and Scope.AUDIT_READ not in caller.scopes:
            raise NotFound(NO_ERASURE)
        return erasure_statements.statement_document(proof, self.public_key)

    async def sealed_erasure_statement(
        self, caller: Caller, record_id: int, seconds: float
    ) -> dict[str, Any] | None:
        """Return the statement of an erasure once its record is sealed.

        None where that takes longer than so many seconds, or the audit log is broken. Never raises:
        the erasure is done, whatever becomes of its statement.
        """
        try:
            async with asyncio.timeout(seconds):
                while not await self._is_sealed(record_id):
                    if self._waiting_is_over.is_set():
                        return None
                    await asyncio.sleep(POLL_SECONDS)
                return await self.erasure_statement(caller, record_id)
        except (TimeoutError, NotFound, AuditBroken, StorageUnavailable):
            return None

    async def _is_sealed(self, record_id: int) -> bool:
        try:
            size = await self._read(
                lambda connection: tree.read_tree(tree.fetcher(connection)).size
            )
        except StorageUnavailable:
            return False
        return size >= record_id

    def stop_waiting(self) -> None:
        """Let nobody wait for a seal from now on: the process stops."""
        self._waiting_is_over.set()

    async def _read(self, query: Callable[[Connection], T]) -> T:
        """Run a query on a snapshot of the database, in a thread."""

        def run() -> T:
            with snapshot(self._engine) as connection:
                return query(connection)

        return await in_time(run)

    def _record_filter(
        self, caller: Caller, question: RecordQuestion
    ) -> record_search.RecordFilter:
        """Return the filter of a search, within the apps that the caller may use."""
        users = None if question.user_hash is None else {question.user_hash}
        subjects = _subjects(question.user_id, question.device_id)
        if subjects:
            hashes = self._hashes(caller, question.app, subjects)
            users = hashes if users is None else hashes & users
        return record_search.RecordFilter(
            since=question.since,
            until=question.until,
            key_id=question.key_id,
            app=question.app,
            apps=caller.apps,
            users=users,
            action=question.action,
            outcome=question.outcome,
            request_id=question.request_id,
            resource=question.resource,
        )

    def _hashes(self, caller: Caller, app: str | None, subjects: Sequence[str]) -> set[str]:
        """Return the keyed hashes of users and devices, which differ from app to app.

        Without `app`, the hashes are those in every app that the caller may use.
        """
        if app is None:
            apps = [name for name in self._app_names() if caller.may_use(name)]
        else:
            apps = [app]
        return {self._pseudonyms.of(name, subject) for name in apps for subject in subjects}


def _subjects(user_id: str | None, device_id: str | None) -> list[str]:
    subjects = []
    if user_id is not None:
        subjects.append(f"u{plain(user_id)}")
    if device_id is not None:
        subjects.append(f"d{plain(device_id)}")
    return subjects
