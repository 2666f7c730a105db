"""Signed statements of erasures: what was removed and when, and the proof that the log says so.

A statement holds the audit record of the deletion, its inclusion proof (RFC 9162 §2.1.3) and the
signed checkpoint that the proof leads to. The record is written in the transaction that erases. So
whoever has the public key can verify a statement without the gateway. Plain fields repeat some
facts of the record; verification compares them with it. Users appear as keyed hashes only. Pure.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from app.audit import merkle
from app.audit.proofs import RecordProof
from app.audit.tree import (
    MAX_COUNT,
    Checkpoint,
    InvalidCheckpoint,
    PublicKey,
    from_base64,
    to_base64,
)
from app.clock import instant

PROOF_FIELDS: Mapping[str, type] = {
    "recordId": int,
    "record": str,
    "hashes": list,
    "checkpoint": str,
    "publicKey": str,
}
FACT_FIELDS = ("erasedAt", "app", "erasures")
FIELDS = frozenset({*PROOF_FIELDS, *FACT_FIELDS})
# Of the response to the deletion, which may be verified as it is
ANSWER_FIELD, HREF_FIELD = "statement", "statementHref"
WITHOUT = "it is a receipt without the statement, which the gateway has at {href}"
NOT_JSON = "it is not JSON, and so no statement of an erasure"
NOT_A_STATEMENT = "it is not a statement of an erasure: {fault}"
OTHER_KEY = "publicKey: the statement names another key than the one that it is verified with"
NOT_INCLUDED = (
    "the record does not lead to the signed checkpoint: record, recordId, hashes or checkpoint "
    "were changed"
)
OTHER_NUMBER = "recordId: the record has another number"
NO_ERASURE = "record {seq} of the log states no erasure"
DIFFERS = "{name}: differs from what the signed record states"
KINDS = {
    "waiting": "items not sent yet",
    "inFlight": "items being sent",
    "deadLetters": "dead letters",
    "receipts": "receipts",
    "ids": "remembered item ids",
}


class InvalidStatement(ValueError):
    """A document that is no statement of an erasure, or is not as it was signed."""


@dataclass(frozen=True, slots=True)
class VerifiedStatement:
    """A statement whose record, proof and signature are valid."""

    facts: Mapping[str, Any]
    record_id: int
    record: Mapping[str, Any]
    checkpoint: Checkpoint
    signer: str

    def lines(self) -> Iterator[str]:
        """Yield what the statement says, for people."""
        actor, api = self.record["actor"]["user"]["uid"], self.record["api"]
        erasures: Sequence[Mapping[str, Any]] = self.facts["erasures"]
        users = "1 user" if len(erasures) == 1 else f"{len(erasures)} users"
        yield (
            f"The statement is valid: it is record {self.record_id} of the audit log "
            f"{self.signer}, under the signed checkpoint of {self.checkpoint.size} records."
        )
        yield (
            f"At {self.facts['erasedAt']} the gateway erased {users} of the app "
            f"{self.facts['app']} ({api['operation']}, caller key {actor}, request "
            f"{api['request']['uid']})."
        )
        for erasure in erasures:
            yield _describe(erasure)
        yield "Whether Leanplum carried out the deletion is stated by its receipt, not here."


def _describe(erasure: Mapping[str, Any]) -> str:
    """Return what was done about one user, as a line."""
    counts: Mapping[str, int] = erasure["removed"]
    removed = ", ".join(f"{text}: {counts[name]}" for name, text in KINDS.items())
    if not any(counts.values()):
        removed = "nothing, since nothing of the user was stored"
    asked = "to erase all data of the user" if erasure["fullErasure"] else "to delete the user"
    line = f"User {erasure.get('user', '(unknown)')} (a keyed hash). Removed: {removed}."
    line = f"{line} Leanplum is asked {asked}."
    until = erasure.get("refusedUntil")
    return line if until is None else f"{line} Writes for the user are refused until {until}."


def states_erasure(record: str) -> bool:
    """Return whether the text of a record states an erasure."""
    return _facts_of(record) is not None


def statement_document(proof: RecordProof, public: PublicKey) -> dict[str, Any]:
    """Return the statement of the erasure that a proven record states, as JSON.

    Raises InvalidStatement where it states none.
    """
    facts = _facts_of(proof.record)
    if facts is None:
        raise InvalidStatement(NO_ERASURE.format(seq=proof.seq))
    return {
        "recordId": proof.seq,
        **facts,
        "record": proof.record,
        "hashes": [to_base64(value) for value in proof.path],
        "checkpoint": proof.sealed.checkpoint.note,
        "publicKey": public.text,
    }


def parse_statement(text: bytes) -> dict[str, Any]:
    """Return the statement in a file, which may be the whole response to the deletion.

    Raises InvalidStatement.
    """
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise InvalidStatement(NOT_JSON) from None
    if isinstance(document, dict) and HREF_FIELD in document:
        if ANSWER_FIELD not in document:
            raise InvalidStatement(WITHOUT.format(href=document[HREF_FIELD]))
        document = document[ANSWER_FIELD]
    if not isinstance(document, dict):
        raise InvalidStatement(NOT_A_STATEMENT.format(fault="it is not an object"))
    for name in (*PROOF_FIELDS, *FACT_FIELDS):
        if name not in document:
            raise InvalidStatement(NOT_A_STATEMENT.format(fault=f"it has no {name}"))
        if type(document[name]) is not PROOF_FIELDS.get(name, type(document[name])):
            raise InvalidStatement(NOT_A_STATEMENT.format(fault=f"{name} is of a wrong type"))
    unknown = sorted(document.keys() - FIELDS)
    if unknown:
        fault = f"{unknown[0][:100]!r} is no field of one"
        raise InvalidStatement(NOT_A_STATEMENT.format(fault=fault))
    return document


def verify_statement(document: Mapping[str, Any], key: PublicKey) -> VerifiedStatement:
    """Verify a parsed statement with a public key. Raises InvalidStatement with the first fault."""
    if document["publicKey"] != key.text:
        raise InvalidStatement(OTHER_KEY)
    try:
        checkpoint = key.verify(document["checkpoint"])
    except InvalidCheckpoint as error:
        raise InvalidStatement(f"checkpoint: {error}") from None
    seq, record = document["recordId"], document["record"]
    leaf, path = merkle.leaf_hash(record.encode()), _path(document["hashes"])
    if not 0 < seq <= MAX_COUNT:
        raise InvalidStatement(NOT_INCLUDED)
    if not merkle.included(leaf, seq - 1, checkpoint.size, path, checkpoint.root):
        raise InvalidStatement(NOT_INCLUDED)
    facts = _facts_of(record)
    if facts is None:
        raise InvalidStatement(NO_ERASURE.format(seq=seq))
    fields = orjson.loads(record)
    if fields["metadata"]["sequence"] != seq:
        raise InvalidStatement(OTHER_NUMBER)
    for name, value in facts.items():
        # As JSON, since Python takes true for 1
        if orjson.dumps(document[name]) != orjson.dumps(value):
            raise InvalidStatement(DIFFERS.format(name=name))
    return VerifiedStatement(facts, seq, fields, checkpoint, key.name)


def _path(hashes: Sequence[object]) -> list[bytes]:
    """Return the hashes of a proof. Raises InvalidStatement."""
    path = []
    for text in hashes:
        try:
            value = from_base64(text) if isinstance(text, str) else b""
        except InvalidCheckpoint:
            value = b""
        if len(value) != merkle.SIZE:
            raise InvalidStatement("hashes: must be SHA-256 hashes in base64")
        path.append(value)
    return path


def _facts_of(record: str) -> dict[str, Any] | None:
    """Return the facts that a statement repeats; None where the record states no erasure."""
    try:
        fields = orjson.loads(record)
        unmapped = fields["unmapped"]
        if not unmapped["erasures"]:
            return None
        return {
            "erasedAt": instant(fields["time"]),
            "app": unmapped["app"],
            "erasures": unmapped["erasures"],
        }
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
