"""The command `send`: one event through a running gateway, as any caller sends it."""

import json
import os
import sys
from collections.abc import Iterator
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.common import given, load_settings
from app.cli.output import AsJson, print_fields, print_json, print_notice, printable
from app.cli.progress import progress
from app.cli.receipts import receipt_fields
from app.errors import CheckFailed, StartRefused

if TYPE_CHECKING:
    import httpx

    from app.settings import Settings

KEY_VARIABLE = "LPGW_KEY"
ANSWER_SECONDS = 40.0  # beyond the longest wait
LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where a server listens everywhere
PLACES = ("pointer", "header", "parameter")
WAITING = {"accepted", "retrying", "held"}
Param = Annotated[
    list[str] | None,
    typer.Option(help="A parameter, as in sku=A-1; JSON where it is valid; may be repeated"),
]
KeyFile = Annotated[
    Path | None, typer.Option(help=f"A file with the caller key; default: {KEY_VARIABLE}")
]


def register(cli: typer.Typer) -> None:
    """Add the command."""
    cli.command()(send)


def send(
    event: Annotated[str, typer.Argument(help="The name of the event")],
    user: Annotated[str | None, typer.Option(help="The user id")] = None,
    device: Annotated[str | None, typer.Option(help="The device id")] = None,
    value: Annotated[float | None, typer.Option(help="The event's value")] = None,
    currency: Annotated[str | None, typer.Option(help="The value's currency, as in EUR")] = None,
    param: Param = None,
    item_id: Annotated[
        str | None, typer.Option("--id", help="The item's id: a repeat of it is not sent again")
    ] = None,
    app: Annotated[str | None, typer.Option(help="The app, if the key is for several")] = None,
    wait: Annotated[
        int, typer.Option(min=0, max=30, help="Seconds to wait for what Leanplum says")
    ] = 0,
    url: Annotated[
        str | None, typer.Option(help="The gateway; default: GATEWAY_HOST and GATEWAY_PORT")
    ] = None,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Send one event through a running gateway.

    The caller key comes from LPGW_KEY, from a file, or from a prompt. Exits with 1 if the gateway
    refuses the event or, with --wait, if Leanplum does not apply it.
    """
    if value is not None and not isfinite(value):
        raise StartRefused("--value: must be a finite number")
    body = given(userId=user, deviceId=device, value=value, currencyCode=currency, id=item_id)
    body |= {"event": event} | ({"params": dict(map(_param, param))} if param else {})
    base = url or _own_url(load_settings())
    headers = {"Authorization": f"Bearer {_caller_key(key_file)}"}
    headers |= given(**{"X-Leanplum-App": app, "Prefer": f"wait={wait}" if wait else None})
    with progress("Waiting for the gateway"):
        receipt = _post(f"{base.rstrip('/')}/v1/events", body, headers)
    if as_json:
        print_json(receipt)
    else:
        print_fields(receipt_fields(receipt))
    _check_outcome(receipt["status"], waited=bool(wait))


def _no_constant(text: str) -> Any:
    """Refuse NaN and infinite numbers, which are no JSON."""
    raise ValueError(text)


def _param(text: str) -> tuple[str, Any]:
    """Return the name and value of a parameter. Raises StartRefused."""
    name, equals, value = text.partition("=")
    if not equals:
        raise StartRefused("--param: must be NAME=VALUE")
    try:
        return name, json.loads(value, parse_constant=_no_constant)
    except ValueError:
        return name, value


def _own_url(settings: "Settings") -> str:
    """Return where the gateway of these settings listens."""
    host = LOOPBACK.get(settings.gateway_host, settings.gateway_host)
    bracketed = f"[{host}]" if ":" in host else host
    return f"http://{bracketed}:{settings.gateway_port}"


def _caller_key(key_file: Path | None) -> str:
    """Return the caller key. It is never an argument, which every user of the machine can see.

    Raises StartRefused if there is none, or if it is not well-formed.
    """
    from app.callers import key_format

    if key_file is not None:
        try:
            key = key_file.read_text().strip()
        except (OSError, ValueError) as error:
            raise StartRefused(f"--key-file: {key_file} can't be read: {error}") from None
    else:
        key = os.environ.get(KEY_VARIABLE, "").strip()
        if not key and sys.stdin.isatty():
            key = typer.prompt("Caller key", hide_input=True, err=True).strip()
    if not key:
        raise StartRefused(f"set {KEY_VARIABLE} to a caller key, or give --key-file")
    if not key_format.well_formed(key):
        raise StartRefused("the caller key is mistyped: its checksum is wrong")
    return key


def _post(url: str, body: dict[str, Any], headers: dict[str, str]) -> dict[str, Any]:
    """Post the event and return its receipt.

    Raises CheckFailed with what the gateway says if it refuses the event, or does not answer.
    """
    import httpx

    # A proxy of the environment is for other hosts: it must not see the key
    is_local = httpx.URL(url).host in {"127.0.0.1", "::1", "localhost"}
    try:
        with httpx.Client(timeout=ANSWER_SECONDS, trust_env=not is_local) as client:
            answer = client.post(url, json=body, headers=headers)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise StartRefused(f"--url: is not the URL of a gateway: {error}") from None
    except httpx.TransportError as error:
        reason = str(error) or type(error).__name__
        raise CheckFailed(f"{url}: the gateway does not answer: {reason}") from None
    if not answer.is_success:
        raise CheckFailed("\n".join(_refusal(answer)))
    receipt = _document(answer)
    if "status" not in receipt:
        raise CheckFailed(f"{answer.url}: the answer, {answer.status_code}, is not a gateway's")
    return receipt


def _document(answer: "httpx.Response") -> dict[str, Any]:
    """Return a JSON object of the gateway. Raises CheckFailed if it is something else."""
    try:
        document = answer.json()
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise CheckFailed(f"{answer.url}: the answer, {answer.status_code}, is not a gateway's")
    return document


def _refusal(answer: "httpx.Response") -> Iterator[str]:
    """Yield what a problem says: each of its errors, or else its detail."""
    problem = _document(answer)
    title = problem.get("title", answer.status_code)
    errors = problem.get("errors") or [{"detail": problem.get("detail", "-")}]
    for error in errors:
        place = next((error[name] for name in PLACES if error.get(name)), None)
        detail = error["detail"] if place is None else f"{place}: {error['detail']}"
        yield printable(f"{title}: {detail}")


def _check_outcome(status: str, *, waited: bool) -> None:
    """Raise CheckFailed if Leanplum did not apply the event."""
    if status in WAITING:
        if waited:
            print_notice("it is accepted and still waiting; `receipts show` tells more later")
    elif status != "delivered":
        raise CheckFailed(f"Leanplum did not apply it: {status}")
