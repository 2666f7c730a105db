"""From a request to a call of Leanplum's protocol. Pure. Judged by content: SDKs send JSON as
text/plain, and forms without saying so (fact sheet §1, §7).
"""

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

from app.compat import form_values, json_values
from app.compat.json_values import Fits, anything_fits, parsed
from app.enrichment.privacy import OBJECTS
from app.errors import Fault, Malformed, TooLarge
from app.http.body import CSV, MAX_ITEM_MEMBERS, crowded_error
from app.ids import text_of
from app.leanplum.actions import ACTIONS
from app.leanplum.values import LATEST

BATCH_PATH = "/api-batch"
MAX_FIELDS = 10_000
NO_ID = "must be a string or number"
# What a batch says as a whole, and an import. Anything else is left out: of a batch with
# `createJob` or a bucket Leanplum may make an import, and of an import with `data` a batch with the
# development key.
OF_BATCHES = frozenset(
    {"action", "appId", "clientKey", "apiVersion", "client", "sdkVersion", "devMode", "time"}
)
OF_IMPORTS = OF_BATCHES | {"createJob", "file", "gcsBucket", "defaultAction", "reqId", "uuid"}
AS_SENT = ("userId", "deviceId", "newUserId", "action", "event", "state")  # never mended
WHOM = ("userId", "deviceId", "newUserId")
AS_TEXT = OBJECTS | {"value"}  # may be JSON as text
Args = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """One call: its arguments, and its entries; a call that is no batch is its own one entry."""

    args: Args
    entries: list[Any]
    batch: bool
    rows: bytes | None = None  # the CSV text of an import that came as the body

    @property
    def imports(self) -> bool:
        """Whether the call is a `multi` that makes a job of CSV."""
        return self.action == "multi" and not self.batch

    @property
    def action(self) -> str:
        """What is called; "" where that is not said."""
        return text(self.args.get("action"))

    @property
    def key(self) -> str:
        """The key that came along: of the call, else of the first entry that has one (JS repeats it
        in each).
        """
        if found := text(self.args.get("clientKey")):
            return found
        keys = (text(entry.get("clientKey")) for entry in self.entries if isinstance(entry, dict))
        return next((key for key in keys if key), "")

    @property
    def app_id(self) -> str:
        """The app's id that came along."""
        return text(self.args.get("appId"))


def text(value: Any) -> str:
    """An argument as text; numbers are ids too, and what is neither says nothing."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else ""


def truthy(value: Any) -> bool:
    """Android sends "false" as text, iOS 0 and 1, JavaScript booleans (fact sheet §7)."""
    return value.strip().lower() in {"true", "1", "yes"} if isinstance(value, str) else bool(value)


def from_query(query: bytes) -> Args:
    """The arguments of a query, or of a form."""
    try:
        query.decode()
        return dict(form_values.pairs(query, MAX_FIELDS))
    except UnicodeDecodeError:
        raise Malformed("The arguments are not UTF-8, percent-encoded.") from None
    except ValueError:
        raise Malformed(f"There are more than {MAX_FIELDS} arguments.") from None


def from_body(body: bytes) -> Args:
    """The arguments of a body that is JSON or a form. A bare list is a batch's `data`. Raises
    Malformed.
    """
    bare = body.strip()
    if not bare:
        return {}
    if bare[:1] not in b"{[":
        return from_query(bare)
    found = parsed(bare)
    return {"data": found} if isinstance(found, list) else dict(found)


def is_csv(media: str, query: Args, body: bytes) -> bool:
    """Whether a body is the rows of an import: it says that it is CSV, or the query asks for a job
    and the body is neither JSON nor a form.
    """
    bare = body.strip()
    if not bare or bare[:1] in b"{[":
        return False
    if media.partition(";")[0].strip() == CSV:
        return True
    first_line = re.split(rb"[\r\n]", bare, maxsplit=1)[0]
    return truthy(query.get("createJob")) and b"=" not in first_line


def import_of(path: str, query: Args, rows: bytes) -> Call:
    """The call that makes a job of the rows in its body."""
    args = {**query, "action": text(query.get("action")) or ("multi" if path == BATCH_PATH else "")}
    if args["action"] == "multi":
        args = _only(OF_IMPORTS, args)
    return Call(args, [args], batch=False, rows=rows)


def call(path: str, query: Args, body: Args, fits: Fits = anything_fits) -> Call:
    """The call that query and body make together; the body wins. Raises Malformed where a batch's
    `data` is no list, BeyondLimit where it has more entries than fit.
    """
    args = {**query, **body}
    action = text(args.get("action"))
    batch = action == "multi" or (not action and ("data" in args or path == BATCH_PATH))
    if not batch:
        if crowded_error(args) is not None:  # before each of hundreds of thousands is looked at
            raise _crowded()
        args = _entry(json_values.marked(args))
        return Call(args, [args], batch=False)
    if truthy(args.get("createJob")) or ("file" in args and "data" not in args):
        args = _only(OF_IMPORTS, args) | {"action": "multi"}
        return Call(args, [args], batch=False)
    return Call(_only(OF_BATCHES, args), _entries(args.get("data", []), fits), batch=True)


def _only(names: Set[str], args: Args) -> Args:
    return {name: value for name, value in args.items() if name in names}


def refuse_crowded(call: Call) -> None:
    """Raise TooLarge where one action has more fields and values than any has: to judge each of
    hundreds of thousands takes seconds, and others wait."""
    for entry in call.entries:
        if isinstance(entry, dict) and (crowded_error(entry) is not None or _crowded_text(entry)):
            raise _crowded()


def _crowded() -> TooLarge:
    return TooLarge(f"An action has more than {MAX_ITEM_MEMBERS} fields and values.")


def _crowded_text(entry: Args) -> bool:
    """Whether a value that is JSON as text has too many, of an action whose values are judged."""
    action = ACTIONS.get(text(entry.get("action")))
    if action is None or not action.later:
        return False
    return any(isinstance(value, str) and _is_crowded(value) for value in entry.values())


def _is_crowded(value: str) -> bool:
    return (
        len(value) > MAX_ITEM_MEMBERS
        and value.lstrip()[:1] in {"{", "["}
        and value.count(",") > MAX_ITEM_MEMBERS
    )


def _entries(data: Any, fits: Fits) -> list[Any]:
    """A list, {"data": a list}, or a text of either (fact sheet §3.7)."""
    for _ in range(3):
        if isinstance(data, str):
            data = parsed(data.encode()) if data.strip() else []
        if isinstance(data, Mapping):
            data = data.get("data", [])
        if isinstance(data, list):
            json_values.refuse_beyond(fits, len(data))
            return list(map(_entry, data))
    raise Malformed("A batch's data must be a list of actions.")


def _entry(found: Any) -> Any:
    settled = json_values.settled(found, AS_SENT, AS_TEXT)
    return _with_plain_ids(settled) if type(settled) is dict else settled


def _with_plain_ids(entry: Args) -> Args:
    """Give ids the one text that each has, for Leanplum as well: " 77" and 77.0 are 77. Whole
    numbers stay numbers.
    """
    for name in WHOM:
        value = entry.get(name)
        if value is None or type(value) is int:
            continue
        if type(value) is str and value and "!" <= value[0] <= "~" and "!" <= value[-1] <= "~":
            continue  # as in `plain`, without a call: nearly all
        text = text_of(value)
        if text is None:
            return json_values.Faulty(entry, (Fault(f"/{name}", NO_ID, "type"),))
        if text is not value:
            entry[name] = text
    return entry


DEVELOPMENT = "devMode"
OF_EACH_ENTRY = (DEVELOPMENT, "client", "sdkVersion", "apiVersion")


def shared_arguments(args: Mapping[str, Any]) -> dict[str, Any]:
    """Return those arguments of a batch that count for each entry."""
    return {name: args[name] for name in OF_EACH_ENTRY if not _absent(args.get(name))}


def with_shared_arguments(shared: Mapping[str, Any], entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return an entry with the arguments that it shares; the same object where nothing is new."""
    added = {name: value for name, value in shared.items() if _counts(name, value, entry)}
    return {**entry, **added} if added else entry


def _counts(name: str, value: Any, entry: Mapping[str, Any]) -> bool:
    own = entry.get(name)
    if name == DEVELOPMENT and truthy(value):
        return not truthy(own)
    return _absent(own)


def _absent(value: Any) -> bool:
    return value is None or value == ""


UNREADABLE = "time: the time of the call is not epoch seconds; the entry's time is not corrected"
OUT_OF_RANGE = "time: the time of the call is too far from now; the entry's time is not corrected"


@dataclass(frozen=True, slots=True)
class Correction:
    """What the entries of one call have to be moved by. `fault`: why that is not known."""

    seconds: float = 0.0
    fault: str | None = None

    def applied(self, entry: Mapping[str, Any]) -> tuple[Any, float | None, str | None]:
        """Return an entry's time, what it was moved by, and why it was left as it is.

        A time keeps its type: a text of digits stays one.
        """
        given = entry.get("time")
        found = epoch_seconds(given)
        if found is None or self.fault is not None or not self.seconds:
            return given, None, self.fault if found is not None else None
        moved = round(found + self.seconds, 6)
        if not 0 < moved < LATEST:
            return given, None, OUT_OF_RANGE
        return str(moved) if isinstance(given, str) else moved, self.seconds, None


NO_CORRECTION = Correction()


def correction_of(call_time: Any, received_at: int) -> Correction:
    """Return the correction for a batch with this `time`, received at `received_at` (ms)."""
    if call_time is None or call_time == "":
        return NO_CORRECTION
    sent_at = epoch_seconds(call_time)
    if sent_at is None:
        return Correction(fault=UNREADABLE)
    return Correction(round(received_at / 1000 - sent_at, 3))


def epoch_seconds(value: Any) -> float | None:
    """Return a time as epoch seconds; None for what is none, such as milliseconds."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return None
    return seconds if 0 < seconds < LATEST else None
