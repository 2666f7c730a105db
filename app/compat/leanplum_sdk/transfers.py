"""Transfers in Leanplum's protocol: uploads, downloads and imports of CSV, which are relayed."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog
from starlette.types import Send

from app.compat.leanplum_sdk import classify, response
from app.compat.leanplum_sdk.request import SdkCall, to_text
from app.enrichment.relayed_calls import RelayedCallPrivacy, permit_import
from app.errors import Forbidden, Invalid, Malformed
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
from app.outbox import erasure
from app.outbox.outbox import Outbox
from app.relay.service import Relay

IMPORT = "multi"  # Leanplum's action that begins an import
IMPORT_HELP = (
    "Name the file and its public bucket in file and gcsBucket, or send the rows as a text/csv "
    "body: the first line names the arguments, and each further line is one action."
)
TRANSFER_ACTIONS = frozenset({"uploadFile", "downloadFile"})
Transfer = Callable[[Send], Awaitable[int]]  # sends the response; returns the status

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
        self,
        context: RequestContext,
        caller: Caller,
        app: App,
        call: SdkCall,
        files: list[FilePart],
    ) -> Transfer | None:
        """Return the function that answers a transfer; None for an import from a bucket.

        Raises Malformed, Forbidden, Erased, and the errors of the relay.
        """
        if call.is_import:
            rows = _find_rows(call, files)
            if rows is not None:
                return await self._import(context, caller, app, call, rows)
            await permit_import(app, caller, to_text(call.args.get("defaultAction")))
            self._refuse_bucket(app, caller)
        if files and call.action != "uploadFile":
            _check_takes_files(call)
        if files or call.action == "uploadFile":
            return await self._upload(context, caller, app, call, files)
        if call.action == "downloadFile" and not call.batch:
            return await self._download(context, caller, app, call)
        return None

    async def _upload(
        self,
        context: RequestContext,
        caller: Caller,
        app: App,
        call: SdkCall,
        files: list[FilePart],
    ) -> Transfer:
        """Send files to Leanplum as they are read."""
        classified = _classify_permitted(call, caller)
        if not files:
            raise Malformed("There is no file: send it as multipart/form-data.")
        await self._refuse_erased(app, classified)
        self._privacy.apply(app, caller, call.action, call.args)
        fields = _select_fields(call)
        sent = self._privacy.files(app, caller, call.action, files)
        answer = await self._relay.upload(app, ACTIONS[call.action], fields, sent)
        return _respond_success(context, call, answer)

    async def _import(
        self, context: RequestContext, caller: Caller, app: App, call: SdkCall, rows: bytes
    ) -> Transfer:
        """Start an import of rows."""
        _classify_permitted(call, caller)
        if not has_rows(rows):
            raise Malformed(f"The CSV has no rows. {IMPORT_HELP}")
        default_action = to_text(call.args.get("defaultAction"))
        try:
            await permit_import(app, caller, default_action, rows)
            self._privacy.apply(app, caller, call.action, call.args)
            find_end = await self._outbox.find_erasure_ends(app.name)
            rows = await self._privacy.rows(app, caller, rows, default_action, find_end)
        except Invalid as error:
            raise Malformed(f"The CSV {error.faults[0].detail}.") from None
        fields = _select_fields(call)
        fields.setdefault("createJob", "true")
        self._job_facts.note_call(context, ACTIONS[IMPORT], fields)
        answer = await self._relay.import_csv(app, ACTIONS[IMPORT], fields, rows)
        note_answer(context, answer)
        return _respond_success(context, call, answer)

    async def _download(
        self, context: RequestContext, caller: Caller, app: App, call: SdkCall
    ) -> Transfer:
        """Return the function that streams a file."""
        classified = _classify_permitted(call, caller)
        self._privacy.apply(app, caller, call.action, call.args)
        await self._refuse_erased(app, classified)
        args = {
            name: value for name, value in call.args.items() if name not in classify.CALL_ARGUMENTS
        }
        kind = (
            classified.key if isinstance(classified, classify.RelayedEntry) else KeyKind.PRODUCTION
        )
        opened = self._relay.download(app, args, kind)
        file = await opened.__aenter__()

        async def stream(send: Send) -> int:
            try:
                assert file.chunks is not None
                headers = [
                    *headers_of_file(file.headers),
                    *response.CORS,
                    *BROWSER_GUARDS,
                    NO_STORE,
                ]
                headers += [(b"x-request-id", context.request_id.encode()), *context.rate_headers]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                try:
                    async for chunk in file.chunks:
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
                except Exception as error:
                    # The status is sent already; an SDK notices the failure by the early end.
                    log_failure(log, context, error)
                    return 200
                await send({"type": "http.response.body", "body": b""})
                return 200
            finally:
                await opened.__aexit__(None, None, None)

        return stream

    async def _refuse_erased(self, app: App, classified: classify.ClassifiedEntry) -> None:
        """Raise Erased when the call names an erased user."""
        if not isinstance(classified, classify.RelayedEntry):
            return
        if ends := await self._outbox.erased(app.name, classified.subjects):
            raise erasure.refusal(ends.values())

    def _refuse_bucket(self, app: App, caller: Caller) -> None:
        """Raise Malformed when privacy rules could not be applied to the rows of a bucket."""
        try:
            self._privacy.refuse_bucket(app, caller)
        except Invalid as error:
            raise Malformed(f"gcsBucket {error.faults[0].detail}.") from None


def _classify_permitted(call: SdkCall, caller: Caller) -> classify.ClassifiedEntry:
    """Classify a call that is one action. Raises Forbidden when it is refused."""
    classified = classify.classify_entry(call.args, caller.scopes, in_batch=False)
    if isinstance(classified, classify.RefusedEntry):
        raise Forbidden(classified.reason)
    return classified


def _select_fields(call: SdkCall) -> dict[str, str]:
    """Return the arguments for Leanplum, as text."""
    return {
        name: to_text(value)
        for name, value in call.args.items()
        if name not in classify.CALL_ARGUMENTS
    }


def _respond_success(context: RequestContext, call: SdkCall, answer: Mapping[str, Any]) -> Transfer:
    entry = response.echo_req_id(call.args, {"success": True, **answer})

    async def send_success(send: Send) -> int:
        return await response.send_body(
            context, send, 200, response.JSON, response.render_envelope([entry])
        )

    return send_success


def _check_takes_files(call: SdkCall) -> None:
    """Raise Malformed for a call whose files are not sent on: only development actions take any."""
    known = ACTIONS.get(call.action)
    takes_files = (
        not call.batch
        and known is not None
        and known.key is KeyKind.DEVELOPMENT
        and known.name != ERASES
    )
    if not takes_files:
        raise Malformed(
            f"{call.action or 'This call'} takes no files; only development actions do, one a call."
        )


def _find_rows(call: SdkCall, files: list[FilePart]) -> bytes | None:
    """Return the CSV text of an import; None when it names a file in a bucket. Raises Malformed."""
    if call.rows is not None:
        return call.rows
    if len(files) == 1:
        return without_bom(files[0][1][1].read())
    missing = [name for name in ("file", "gcsBucket") if not to_text(call.args.get(name))]
    if missing or files:
        raise Malformed(
            f"The import lacks {' and '.join(missing) or 'a single file'}. {IMPORT_HELP}"
        )
    call.args["createJob"] = call.args.get("createJob") or True
    return None
