"""Verification of the statement of an erasure, for `audit verify --statement`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.audit.erasure_statements import (
    InvalidStatement,
    VerifiedStatement,
    parse_statement,
    verify_statement,
)
from app.cli import audit_log
from app.cli.output import print_json, print_text, printable
from app.errors import StartRefused
from app.settings import Settings

NOT_VALID = "The statement is NOT valid: {fault}."


def verify_file(
    path: Path, public_key: str | None, load_settings: Callable[[], Settings], *, as_json: bool
) -> bool:
    """Verify the statement in a file, print what it states, and return whether it is valid.

    Settings are loaded only where no public key is given: then the gateway's own is used. Raises
    StartRefused where the file cannot be read, or there is no key.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StartRefused(f"{path}: can't be read: {error.strerror}") from None
    if public_key is None:
        key = audit_log.public_key(load_settings())
    else:
        key = audit_log.parse_key(public_key)
    try:
        statement = verify_statement(parse_statement(content), key)
    except InvalidStatement as fault:
        if as_json:
            print_json({"valid": False, "fault": str(fault)})
        else:
            print_text(printable(NOT_VALID.format(fault=fault)))
        return False
    if as_json:
        print_json(_document(statement))
        return True
    for line in statement.lines():
        print_text(printable(line))
    return True


def _document(statement: VerifiedStatement) -> dict[str, Any]:
    """Return a valid statement's facts as JSON."""
    return {
        "valid": True,
        "recordId": statement.record_id,
        **statement.facts,
        "log": statement.signer,
        "sealedRecords": statement.checkpoint.size,
    }
