"""Transfers in Leanplum's protocol: uploads, downloads, and imports of CSV. They are relayed."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog
from starlette.types import Send

from app.compat.leanplum_sdk import classify, response
from app.compat.leanplum_sdk import request as reading
from app.compat.leanplum_sdk.classify import No, Now, Sorted
from app.compat.leanplum_sdk.request import Call
from app.compat.leanplum_sdk.response import CORS, JSON, send_body
from app.enrichment.relayed_calls import RelayedCallPrivacy, permit_import
from app.errors import Erased, Forbidden, Invalid, Malformed
from app.http import (
    BROWSER_GUARDS,
    NO_STORE,
    JobFacts,
    RequestContext,
    has_rows,
    headers_of_file,
    log_failure,
    note_answer,
    without_bom,
)
from app.leanplum.actions import ACTIONS
from app.leanplum.client import FilePart
from app.model import ERASES, App, Caller, KeyKind
from app.outbox.outbox import Outbox
from app.relay.service import Relay

IMPORT = "multi"  # Leanplum's action that begins an import
FORMS_OF_IMPORT = (
    "Name the file and its public bucket in file and gcsBucket, or send the rows as a text/csv "
    "body: the first line names the arguments, and each further line is one action."
)
Transfer = Callable[[Send], Awaitable[int]]  # answers; returns the status

log = structlog.get_logger("sdk")


class TransferHandler:
    """Relay uploads, downloads and imports."""

    def __init__(
        self,
        relay: Relay,
        outbox: Outbox,
        privacy: RelayedCallPrivacy,
        job_facts: JobFacts,
    ) -> None:
        self._relay, self._outbox = relay, outbox
        self._privacy, self._job_facts = privacy, job_facts

    async def start(
        self, context: RequestContext, caller: Caller, app: App, call: Call, files: list[FilePart]
    ) -> Transfer | None:
        """Return what answers a call that is a transfer; None for any other call.

        Raises Malformed, Forbidden, Erased, and what relaying raises.
        """
        if call.imports:
            rows = _rows(call, files)
            if rows is not None:
                return await self._import(context, caller, app, call, rows)
            await permit_import(app, caller, reading.text(call.args.get("defaultAction")))
            self._refuse_bucket(app, caller)
        if call.action == "uploadFile" or (files and _takes_files(call)):
            return await self._upload(context, caller, app, call, files)
        if call.action == "downloadFile" and not call.batch:
            return await self._download(context, caller, app, call)
        return None

    async def _upload(
        self, context: RequestContext, caller: Caller, app: App, call: Call, files: list[FilePart]
    ) -> Transfer:
        """Send files on as they are read."""
        classified = _permitted(call, caller)
        if not files:
            raise Malformed("There is no file: send it as multipart/form-data.")
        await self._refuse_erased(app, classified)
        self._privacy.apply(app, caller, call.action, call.args)
        fields = _fields(call)
        sent = self._privacy.files(app, caller, call.action, files)
        answer = await self._relay.upload(app, ACTIONS[call.action], fields, sent)
        return _success(context, call, answer)

    async def _import(
        self, context: RequestContext, caller: Caller, app: App, call: Call, rows: bytes
    ) -> Transfer:
        """Begin an import of rows."""
        _permitted(call, caller)
        if not has_rows(rows):
            raise Malformed(f"The CSV has no rows. {FORMS_OF_IMPORT}")
        default_action = reading.text(call.args.get("defaultAction"))
        try:
            await permit_import(app, caller, default_action, rows)
            self._privacy.apply(app, caller, call.action, call.args)
            is_erased = await self._outbox.tells_erased(app.name)
            rows = await self._privacy.rows(app, caller, rows, default_action, is_erased)
        except Invalid as error:
            raise Malformed(f"The CSV {error.faults[0].detail}.") from None
        fields = _fields(call)
        fields.setdefault("createJob", "true")
        self._job_facts.note_call(context, ACTIONS[IMPORT], fields)
        answer = await self._relay.import_csv(app, ACTIONS[IMPORT], fields, rows)
        note_answer(context, answer)
        return _success(context, call, answer)

    async def _download(
        self, context: RequestContext, caller: Caller, app: App, call: Call
    ) -> Transfer:
        """Return what streams a file."""
        classified = _permitted(call, caller)
        self._privacy.apply(app, caller, call.action, call.args)
        await self._refuse_erased(app, classified)
        args = {
            name: value for name, value in call.args.items() if name not in classify.OF_THE_CALL
        }
        kind = classified.key if isinstance(classified, Now) else KeyKind.PRODUCTION
        opened = self._relay.download(app, args, kind)
        file = await opened.__aenter__()

        async def stream(send: Send) -> int:
            try:
                assert file.chunks is not None
                headers = [*headers_of_file(file.headers), *CORS, *BROWSER_GUARDS, NO_STORE]
                headers += [(b"x-request-id", context.request_id.encode()), *context.rate_headers]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                try:
                    async for chunk in file.chunks:
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
                except Exception as error:
                    # Too late for another answer: an early end tells the SDK.
                    log_failure(log, context, error)
                    return 200
                await send({"type": "http.response.body", "body": b""})
                return 200
            finally:
                await opened.__aexit__(None, None, None)

        return stream

    async def _refuse_erased(self, app: App, classified: Sorted) -> None:
        """Raise Erased when the call names an erased user."""
        if isinstance(classified, Now) and await self._outbox.erased(app.name, classified.subjects):
            raise Erased

    def _refuse_bucket(self, app: App, caller: Caller) -> None:
        """Raise Malformed when privacy rules could not be applied to what an import brings."""
        try:
            self._privacy.refuse_bucket(app, caller)
        except Invalid as error:
            raise Malformed(f"gcsBucket {error.faults[0].detail}.") from None


def _permitted(call: Call, caller: Caller) -> Sorted:
    """Return the classified call. Raises Forbidden."""
    classified = classify.sort(call.args, caller.scopes, in_batch=False)
    if isinstance(classified, No):
        raise Forbidden(classified.reason)
    return classified


def _fields(call: Call) -> dict[str, str]:
    """Return the arguments that are sent on, as text."""
    return {
        name: reading.text(value)
        for name, value in call.args.items()
        if name not in classify.OF_THE_CALL
    }


def _success(context: RequestContext, call: Call, answer: Mapping[str, Any]) -> Transfer:
    entry = response.echoed(call.args, {"success": True, **answer})

    async def answer_success(send: Send) -> int:
        return await send_body(context, send, 200, JSON, response.envelope([entry]))

    return answer_success


def _takes_files(call: Call) -> bool:
    """Whether a call's files are sent on: those of development actions are. Raises Malformed for
    another's.
    """
    known = ACTIONS.get(call.action)
    if (
        not call.batch
        and known is not None
        and known.key is KeyKind.DEVELOPMENT
        and known.name != ERASES
    ):
        return True
    raise Malformed(
        f"{call.action or 'This call'} takes no files; only development actions do, one a call."
    )


def _rows(call: Call, files: list[FilePart]) -> bytes | None:
    """The CSV text that an import carries; None where it names a file in a bucket instead. Raises
    Malformed.
    """
    if call.rows is not None:
        return call.rows
    if len(files) == 1:
        return without_bom(files[0][1][1].read())
    missing = [name for name in ("file", "gcsBucket") if not reading.text(call.args.get(name))]
    if missing or files:
        raise Malformed(
            f"The import lacks {' and '.join(missing) or 'a single file'}. {FORMS_OF_IMPORT}"
        )
    call.args["createJob"] = call.args.get("createJob") or True
    return None
