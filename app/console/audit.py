"""The audit: search of records, one record with its proof, and the newest checkpoint."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, NamedTuple, cast
from urllib.parse import urlencode

import orjson
from fastapi import Depends, Query, Request, Response

from app.audit import merkle, proofs
from app.audit.record_search import Outcome
from app.audit.sealer import Sealer
from app.audit.service import AuditService, RecordQuestion
from app.audit.tree import to_base64
from app.clock import now_ms
from app.console.fields import Problems, time_of
from app.console.routes import ConsoleDependency, console_router
from app.errors import AuditBroken, NotFound
from app.model import Caller, Scope

AUDIT, RECORD = "/console/audit", "/console/audit/{record_id}"
PAGE = 100
MAX_TEXT = 500
RECORD_ID = re.compile(r"[0-9]{1,18}")
OUTCOMES = ("success", "refused", "failed")
Text = Annotated[str, Query(max_length=MAX_TEXT)]
router = console_router()


@dataclass(frozen=True, slots=True)
class AuditSearch:
    """The fields of the search; "" takes all. `after` is the number of the last record shown."""

    app: Text = ""
    caller: Text = ""
    user: Text = ""
    device: Text = ""
    action: Text = ""
    outcome: Annotated[str, Query(pattern=f"^({'|'.join(OUTCOMES)})?$")] = ""
    request: Text = ""
    resource: Text = ""
    since: Text = ""
    until: Text = ""
    after: Annotated[str, Query(pattern=r"^\d{0,18}$")] = ""

    def question(self) -> RecordQuestion:
        """Return the search. Raises Invalid."""
        problems = Problems()
        question = RecordQuestion(
            since=time_of(self.since, "since", problems),
            until=time_of(self.until, "until", problems),
            key_id=self.caller or None,
            app=self.app or None,
            user_id=self.user or None,
            device_id=self.device or None,
            action=self.action or None,
            outcome=cast(Outcome | None, self.outcome or None),
            request_id=self.request or None,
            resource=self.resource or None,
        )
        problems.check()
        return question

    def link(self, after: int) -> str:
        """Return the query of the page after a record."""
        fields = {name: value for name, value in asdict(self).items() if value}
        return urlencode(fields | {"after": after})


class RecordRow(NamedTuple):
    """A record in the list; what a damaged record does not have is "–"."""

    number: int
    time: int | None
    operation: str
    actor: str
    app: str
    status: str
    address: str
    request_id: str

    @property
    def tone(self) -> str:
        """The tone of the status: good, warn or bad."""
        return {"1": "", "2": "good", "3": "good", "4": "warn", "5": "bad"}.get(self.status[:1], "")


class CheckpointState(NamedTuple):
    """The newest checkpoint, or why there is none that holds; and the state of sealing here."""

    sealed: proofs.SealedTree | None
    trouble: str | None
    broken: bool
    seals: bool
    age: int | None


class ShownProof(NamedTuple):
    """The proof of a record, as texts."""

    leaf_hash: str
    path: list[str]
    root: str
    sealed: proofs.SealedTree


class AuditPages:
    """The services behind the pages about the audit."""

    def __init__(self, service: AuditService, sealer: Sealer) -> None:
        self.service, self._sealer = service, sealer

    async def checkpoint(self) -> CheckpointState:
        """Return the newest checkpoint."""
        seals = not (self._sealer.tampered or self._sealer.waiting)
        try:
            sealed = await self.service.newest_checkpoint()
        except (NotFound, AuditBroken) as error:
            is_broken = isinstance(error, AuditBroken)
            return CheckpointState(None, error.detail, is_broken, seals, None)
        return CheckpointState(sealed, None, False, seals, max(0, now_ms() - sealed.time))

    async def proof(
        self, caller: Caller, record_id: int
    ) -> tuple[str, ShownProof | None, str | None, bool]:
        """Return the text of a record and its proof; or why there is none, and whether that is bad.

        The proof is verified with each call. Raises NotFound for an unknown record.
        """
        try:
            proof = await self.service.inclusion(caller, record_id)
        except (NotFound, AuditBroken) as error:
            text = await self.service.record(caller, record_id)
            return text, None, error.detail, isinstance(error, AuditBroken)
        leaf = merkle.leaf_hash(proof.record.encode())
        path = [to_base64(value) for value in proof.path]
        root = to_base64(proof.sealed.checkpoint.root)
        return proof.record, ShownProof(to_base64(leaf), path, root, proof.sealed), None, False


async def _audit_pages(request: Request) -> AuditPages:
    pages: AuditPages = request.state.audit_pages
    return pages


AuditDependency = Annotated[AuditPages, Depends(_audit_pages)]


@router.get(AUDIT)
async def search_audit(
    request: Request,
    console: ConsoleDependency,
    audit: AuditDependency,
    search: Annotated[AuditSearch, Depends()],
) -> Response:
    """Return the search, with the newest records first, and the newest checkpoint."""
    visitor = await console.access.enter(request, f"GET {AUDIT}", Scope.AUDIT_READ)
    page = await audit.service.search(
        visitor.caller,
        search.question(),
        after=int(search.after) if search.after else None,
        limit=PAGE,
    )
    following = None if page.next_after is None else search.link(page.next_after)
    return console.pages.render(
        "audit.html",
        visitor,
        search=search,
        outcomes=OUTCOMES,
        rows=[_row(number, text) for number, text in page.records],
        following=following,
        checkpoint=await audit.checkpoint(),
        to_base64=to_base64,
        public_key=audit.service.public_key.text,
    )


@router.get(RECORD)
async def show_record(
    request: Request, console: ConsoleDependency, audit: AuditDependency, record_id: str
) -> Response:
    """Return one record, with the proof that it is in the log."""
    visitor = await console.access.enter(request, f"GET {RECORD}", Scope.AUDIT_READ)
    if not RECORD_ID.fullmatch(record_id):
        raise NotFound("No record has this number.")
    number = int(record_id)
    text, proof, trouble, is_bad = await audit.proof(visitor.caller, number)
    return console.pages.render(
        "audit_record.html",
        visitor,
        row=_row(number, text),
        text=_indented(text),
        proof=proof,
        trouble=trouble,
        is_bad=is_bad,
        public_key=audit.service.public_key.text,
    )


def _row(number: int, text: str) -> RecordRow:
    record = _object(text)
    api, endpoint = _member(record, "api"), _member(record, "src_endpoint")
    time = record.get("time")
    return RecordRow(
        number,
        time if isinstance(time, int) else None,
        str(api.get("operation", "–")),
        str(_member(_member(record, "actor"), "user").get("uid", "–")),
        str(_member(record, "unmapped").get("app") or "–"),
        str(record.get("status_code", "–")),
        str(endpoint.get("ip") or endpoint.get("name") or "–"),
        str(_member(api, "request").get("uid", "–")),
    )


def _object(text: str) -> Mapping[str, Any]:
    """Return a record; {} for one that was damaged by hand."""
    try:
        record = orjson.loads(text)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _member(value: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    member = value.get(name)
    return member if isinstance(member, dict) else {}


def _indented(text: str) -> str:
    """Return the text of a record for people; a damaged one as it is."""
    record = _object(text)
    return orjson.dumps(record, option=orjson.OPT_INDENT_2).decode() if record else text
