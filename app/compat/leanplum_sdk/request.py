"""Requests in Leanplum's protocol, parsed into calls. Pure.

The content decides how a body is parsed: SDKs send JSON as text/plain, and forms without a media
type (fact sheet §1, §7).
"""

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

from app.compat import body_formats
from app.compat.body_formats import Fits
from app.enrichment.privacy import OBJECTS
from app.errors import Fault, Malformed, TooLarge
from app.http.body import CSV, MAX_ITEM_MEMBERS, crowded_error
from app.ids import text_of
from app.leanplum.actions import ACTIONS
from app.leanplum.values import LATEST

BATCH_PATH = "/api-batch"
MAX_ARGUMENTS = 10_000
INVALID_ID = "must be a string or number"
# The arguments that a batch and an import may have. All others are dropped: of a batch with
# `createJob` or a bucket Leanplum may make an import, and of an import with `data` a batch with the
# development key.
BATCH_ARGUMENTS = frozenset(
    {"action", "appId", "clientKey", "apiVersion", "client", "sdkVersion", "devMode", "time"}
)
IMPORT_ARGUMENTS = BATCH_ARGUMENTS | {
    "createJob",
    "file",
    "gcsBucket",
    "defaultAction",
    "reqId",
    "uuid",
}
# Fields whose text is never changed, and those that may be JSON as text.
VERBATIM_FIELDS = ("userId", "deviceId", "newUserId", "action", "event", "state")
JSON_TEXT_FIELDS = OBJECTS | {"value"}
ID_FIELDS = ("userId", "deviceId", "newUserId")
Args = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SdkCall:
    """A call of Leanplum's protocol: its arguments and its entries.

    A call that is not a batch is its own only entry. `rows` is the CSV text of an import that came
    as the body.
    """

    args: Args
    entries: list[Any]
    batch: bool
    rows: bytes | None = None

    @property
    def is_import(self) -> bool:
        """True for a `multi` that makes a job of CSV."""
        return self.action == "multi" and not self.batch

    @property
    def action(self) -> str:
        """The action of the call; "" when it names none."""
        return to_text(self.args.get("action"))

    @property
    def key(self) -> str:
        """The caller key of the call, else of the first entry that has one.

        The SDK for JavaScript repeats the key in each entry.
        """
        call_key = to_text(self.args.get("clientKey"))
        if call_key:
            return call_key
        entries = (entry for entry in self.entries if isinstance(entry, dict))
        keys = (to_text(entry.get("clientKey")) for entry in entries)
        return next((key for key in keys if key), "")

    @property
    def app_id(self) -> str:
        """The id of the app at Leanplum that the call names."""
        return to_text(self.args.get("appId"))


def to_text(value: Any) -> str:
    """Return an argument as text: a number is written out, and any other type becomes ""."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else ""


def is_true(value: Any) -> bool:
    """Return whether an argument switches something on.

    Android sends "false" as text, iOS 0 and 1, JavaScript booleans (fact sheet §7).
    """
    if isinstance(value, str):
        return value.strip().lower() in {"true", "1", "yes"}
    return bool(value)


def parse_query(query: bytes) -> Args:
    """Return the arguments of a query or form. Raises Malformed."""
    try:
        query.decode()
        return dict(body_formats.parse_form(query, MAX_ARGUMENTS))
    except UnicodeDecodeError:
        raise Malformed("The arguments are not UTF-8, percent-encoded.") from None
    except ValueError:
        raise Malformed(f"There are more than {MAX_ARGUMENTS} arguments.") from None


def parse_body(body: bytes) -> Args:
    """Return the arguments of a body that is JSON or a form. Raises Malformed.

    A JSON list is the `data` of a batch.
    """
    stripped = body.strip()
    if not stripped:
        return {}
    if stripped[:1] not in b"{[":
        return parse_query(stripped)
    document = body_formats.parse_json(stripped)
    return {"data": document} if isinstance(document, list) else dict(document)


def is_csv(media: str, query: Args, body: bytes) -> bool:
    """Return whether a body is the rows of an import.

    It is when its media type is CSV, or when the query asks for a job and the body is neither JSON
    nor a form.
    """
    stripped = body.strip()
    if not stripped or stripped[:1] in b"{[":
        return False
    if media.partition(";")[0].strip() == CSV:
        return True
    first_line = re.split(rb"[\r\n]", stripped, maxsplit=1)[0]
    return is_true(query.get("createJob")) and b"=" not in first_line


def make_import_call(path: str, query: Args, rows: bytes) -> SdkCall:
    """Return the call that imports the rows in its body."""
    default_action = "multi" if path == BATCH_PATH else ""
    args = {**query, "action": to_text(query.get("action")) or default_action}
    if args["action"] == "multi":
        args = _select(IMPORT_ARGUMENTS, args)
    return SdkCall(args, [args], batch=False, rows=rows)


def make_call(
    path: str, query: Args, body: Args, fits: Fits = body_formats.anything_fits
) -> SdkCall:
    """Return the call of a query and a body; arguments of the body win.

    Raises Malformed when the `data` of a batch is not a list, TooLarge for a single action with too
    many values, and BeyondLimit for more entries than fit.
    """
    args = {**query, **body}
    action = to_text(args.get("action"))
    batch = action == "multi" or (not action and ("data" in args or path == BATCH_PATH))
    if not batch:
        # Checked first: marking hundreds of thousands of values takes seconds.
        if crowded_error(args) is not None:
            raise _crowded_entry()
        args = _resolve_entry(body_formats.mark(args))
        return SdkCall(args, [args], batch=False)
    if is_true(args.get("createJob")) or ("file" in args and "data" not in args):
        args = _select(IMPORT_ARGUMENTS, args) | {"action": "multi"}
        return SdkCall(args, [args], batch=False)
    entries = _parse_entries(args.get("data", []), fits)
    return SdkCall(_select(BATCH_ARGUMENTS, args), entries, batch=True)


def _select(names: Set[str], args: Args) -> Args:
    return {name: value for name, value in args.items() if name in names}


def refuse_crowded_entries(call: SdkCall) -> None:
    """Raise TooLarge when an entry has more fields and values than any action takes.

    Checking each of hundreds of thousands of values would block other requests for seconds.
    """
    for entry in call.entries:
        if isinstance(entry, dict) and (
            crowded_error(entry) is not None or _has_crowded_text(entry)
        ):
            raise _crowded_entry()


def _crowded_entry() -> TooLarge:
    return TooLarge(f"An action has more than {MAX_ITEM_MEMBERS} fields and values.")


def _has_crowded_text(entry: Args) -> bool:
    """Return whether a value that is JSON as text has too many values.

    Only actions that are accepted for later delivery have their values checked.
    """
    action = ACTIONS.get(to_text(entry.get("action")))
    if action is None or not action.later:
        return False
    return any(isinstance(value, str) and _is_crowded_json(value) for value in entry.values())


def _is_crowded_json(text: str) -> bool:
    return (
        len(text) > MAX_ITEM_MEMBERS
        and text.lstrip()[:1] in {"{", "["}
        and text.count(",") > MAX_ITEM_MEMBERS
    )


def _parse_entries(data: Any, fits: Fits) -> list[Any]:
    """Return the entries of a list, of {"data": a list}, or of a text of either (§3.7)."""
    for _ in range(3):
        if isinstance(data, str):
            data = body_formats.parse_json(data.encode()) if data.strip() else []
        if isinstance(data, Mapping):
            data = data.get("data", [])
        if isinstance(data, list):
            body_formats.refuse_beyond(fits, len(data))
            return list(map(_resolve_entry, data))
    raise Malformed("A batch's data must be a list of actions.")


def _resolve_entry(entry: Any) -> Any:
    resolved = body_formats.resolve_marks(entry, VERBATIM_FIELDS, JSON_TEXT_FIELDS)
    return _normalize_ids(resolved) if type(resolved) is dict else resolved


def _normalize_ids(entry: Args) -> Args:
    """Give each id its only text form, for Leanplum as well: " 77" and 77.0 become 77.

    Whole numbers stay numbers.
    """
    for name in ID_FIELDS:
        value = entry.get(name)
        if value is None or type(value) is int:
            continue
        # The check of `text_of`, without a call: nearly all ids end here.
        if type(value) is str and value and "!" <= value[0] <= "~" and "!" <= value[-1] <= "~":
            continue
        text = text_of(value)
        if text is None:
            return body_formats.FaultyObject(entry, (Fault(f"/{name}", INVALID_ID, "type"),))
        if text is not value:
            entry[name] = text
    return entry


DEVELOPMENT = "devMode"
SHARED_ARGUMENTS = (DEVELOPMENT, "client", "sdkVersion", "apiVersion")


def select_shared_arguments(args: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a batch that apply to each of its entries."""
    return {name: args[name] for name in SHARED_ARGUMENTS if not _is_absent(args.get(name))}


def add_shared_arguments(shared: Mapping[str, Any], entry: Any) -> Any:
    """Return an entry with the shared arguments that it lacks; the same object when it has all."""
    if type(entry) is not dict:
        return entry
    added = {name: value for name, value in shared.items() if _applies(name, value, entry)}
    return {**entry, **added} if added else entry


def _applies(name: str, shared_value: Any, entry: Mapping[str, Any]) -> bool:
    own_value = entry.get(name)
    if name == DEVELOPMENT and is_true(shared_value):
        return not is_true(own_value)
    return _is_absent(own_value)


def _is_absent(value: Any) -> bool:
    return value is None or value == ""


UNREADABLE = "time: the time of the call is not epoch seconds; the entry's time is not corrected"
OUT_OF_RANGE = "time: the time of the call is too far from now; the entry's time is not corrected"


@dataclass(frozen=True, slots=True)
class ClockCorrection:
    """The seconds to add to the times of a call's entries.

    `fault` says why the error of the sender's clock is unknown.
    """

    seconds: float = 0.0
    fault: str | None = None

    def correct_time(self, entry: Mapping[str, Any]) -> tuple[Any, float | None, str | None]:
        """Return an entry's time, the seconds added to it, and why it was not corrected.

        A time keeps its type: text stays text.
        """
        sent_time = entry.get("time")
        seconds = parse_epoch_seconds(sent_time)
        if seconds is None:
            return sent_time, None, None
        if self.fault is not None or not self.seconds:
            return sent_time, None, self.fault
        corrected = round(seconds + self.seconds, 6)
        if not 0 < corrected < LATEST:
            return sent_time, None, OUT_OF_RANGE
        return str(corrected) if isinstance(sent_time, str) else corrected, self.seconds, None


NO_CORRECTION = ClockCorrection()


def measure_clock_error(call_time: Any, received_at: int) -> ClockCorrection:
    """Return the correction for a batch with this `time`, received at `received_at` (ms)."""
    if call_time is None or call_time == "":
        return NO_CORRECTION
    sent_at = parse_epoch_seconds(call_time)
    if sent_at is None:
        return ClockCorrection(fault=UNREADABLE)
    return ClockCorrection(round(received_at / 1000 - sent_at, 3))


def parse_epoch_seconds(value: Any) -> float | None:
    """Return a time as epoch seconds; None for any other value, such as milliseconds."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return None
    return seconds if 0 < seconds < LATEST else None
