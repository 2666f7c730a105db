"""Statements of erasures: whatever is changed in one is found, and said in one line."""

import base64
from copy import deepcopy
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import orjson
import pytest

from app.audit import merkle, records
from app.audit.erasure_statements import (
    FIELDS,
    InvalidStatement,
    parse_statement,
    statement_document,
    verify_statement,
)
from app.audit.proofs import RecordProof, SealedTree
from app.audit.tree import CheckpointSigner, PublicKey, Tree, from_base64, to_base64
from tests.support.processes import ended

from .erasure_example import PUBLIC_KEY, STATEMENT

KEY = PublicKey.parse(PUBLIC_KEY)
OTHER = CheckpointSigner(b"\7" * 32)


def check(document: Any, key: PublicKey = KEY) -> None:
    verify_statement(parse_statement(orjson.dumps(document)), key)


def fault_of(document: Any, key: PublicKey = KEY) -> str:
    with pytest.raises(InvalidStatement) as caught:
        check(document, key)
    (line,) = str(caught.value).splitlines()
    return line


def changed(**fields: Any) -> dict[str, Any]:
    return {**deepcopy(STATEMENT), **fields}


def signed(signer: CheckpointSigner, text: str, *, place: int = 1, size: int = 3) -> dict[str, Any]:
    """A statement of any record, properly sealed and signed."""
    leaves = [merkle.leaf_hash(b"another %d" % number) for number in range(size)]
    leaves[place] = merkle.leaf_hash(text.encode())

    def node(level: int, index: int) -> bytes:
        return merkle.root(merkle.peaks_of(leaves[index << level : (index + 1) << level]))

    note = signer.sign(size, merkle.root(merkle.peaks_of(leaves)))
    sealed = SealedTree(signer.public.verify(note), 0, Tree())
    proof = RecordProof(place + 1, text, merkle.inclusion(node, place, size), sealed)
    try:
        return statement_document(proof, signer.public)
    except InvalidStatement:
        return changed(
            record=text,
            hashes=[to_base64(value) for value in proof.path],
            checkpoint=note,
            publicKey=signer.public.text,
        )


def test_a_statement_as_it_was_signed_is_valid() -> None:
    check(STATEMENT)


def test_a_record_with_one_changed_character_is_found() -> None:
    record: str = STATEMENT["record"]
    for place in range(0, len(record), 7):
        other = "x" if record[place] != "x" else "y"
        assert "does not lead" in fault_of(
            changed(record=f"{record[:place]}{other}{record[place + 1 :]}")
        )


@pytest.mark.parametrize("name", ["waiting", "inFlight", "deadLetters", "receipts", "ids"])
def test_a_count_beside_the_record_that_is_changed_is_found(name: str) -> None:
    for value in (0, 99, True, 1.0, "3", None):
        erasures = deepcopy(STATEMENT["erasures"])
        erasures[0]["removed"][name] = value
        assert fault_of(changed(erasures=erasures)).startswith("erasures: differs")


@pytest.mark.parametrize(
    "erasures",
    [
        [],
        STATEMENT["erasures"] * 2,
        [{**STATEMENT["erasures"][0], "refusedUntil": "2026-02-02T12:00:00.000Z"}],
        [{**STATEMENT["erasures"][0], "user": "3781d1d1fa7f2db06f95"}],
        [{**STATEMENT["erasures"][0], "fullErasure": False}],
        [{**STATEMENT["erasures"][0], "note": "Erased at Leanplum, too."}],
    ],
)
def test_any_other_fact_about_a_user_that_is_changed_is_found(erasures: Any) -> None:
    assert fault_of(changed(erasures=erasures)).startswith("erasures: differs")


def test_a_changed_time_or_app_is_found() -> None:
    assert fault_of(changed(erasedAt="2026-01-31T12:00:00.001Z")).startswith("erasedAt: differs")
    assert fault_of(changed(app="other")).startswith("app: differs")


@pytest.mark.parametrize("number", [-1, 0, 1, 3, 4, 2**62, 2**63, 10**30])
def test_a_changed_number_is_found(number: int) -> None:
    document = orjson.dumps(changed(recordId=2)).replace(b'"recordId":2', b'"recordId":%d' % number)
    with pytest.raises(InvalidStatement):
        verify_statement(parse_statement(document), KEY)


def test_a_changed_path_is_found() -> None:
    hashes = STATEMENT["hashes"]
    flipped = bytearray(from_base64(hashes[0]))
    flipped[0] ^= 1
    for path in (
        [],
        hashes[:1],
        hashes[1:],
        hashes[::-1],
        [*hashes, hashes[0]],
        [to_base64(bytes(flipped)), hashes[1]],
    ):
        assert "does not lead" in fault_of(changed(hashes=path))
    for odd in (1, None, "", "?", hashes[0][:-4], [hashes[0]]):
        assert fault_of(changed(hashes=[odd, hashes[1]])).startswith("hashes: ")


def test_a_changed_checkpoint_is_found() -> None:
    note: str = STATEMENT["checkpoint"]
    body, _, signature = note.partition("\n\n")
    name, size, root = body.split("\n")
    encoded = signature.split()[-1]
    flipped = bytearray(base64.b64decode(encoded))
    flipped[-1] ^= 1
    for other in (
        "",
        body,
        note.replace(f"\n{size}\n", "\n4\n"),
        note.replace(root, to_base64(b"\0" * 32)),
        note.replace(name, "leanplum-gateway/0000000000000000"),
        note.replace(encoded, to_base64(bytes(flipped))),
        note.replace(encoded, "?"),
        OTHER.sign(3, from_base64(root)),
    ):
        assert fault_of(changed(checkpoint=other)).startswith("checkpoint: ")


def test_a_checkpoint_of_the_log_at_another_size_does_not_fit() -> None:
    text = records.add_number(2, STATEMENT["record"][1:])
    one, two = (signed(OTHER, text, size=size) for size in (3, 5))
    assert "does not lead" in fault_of(one | {"checkpoint": two["checkpoint"]}, OTHER.public)


def test_another_key_is_found_whether_or_not_the_statement_names_it() -> None:
    assert fault_of(STATEMENT, OTHER.public).startswith("publicKey: ")
    assert fault_of(changed(publicKey=OTHER.public.text)).startswith("publicKey: ")
    renamed = changed(publicKey=OTHER.public.text)
    assert fault_of(renamed, OTHER.public).startswith("checkpoint: ")


def test_a_statement_signed_with_another_key_in_every_part_is_found() -> None:
    forged = signed(OTHER, STATEMENT["record"])
    check(forged, OTHER.public)
    assert fault_of(forged).startswith("publicKey: ")
    assert fault_of(forged | {"publicKey": PUBLIC_KEY}).startswith("checkpoint: ")


def test_a_sealed_record_that_states_no_erasure_is_no_statement() -> None:
    for text in (
        "no JSON",
        "[]",
        "{}",
        '{"unmapped":{"erasures":[]}}',
        '{"time":1,"unmapped":{"app":"a","erasures":null}}',
        records.add_number(2, records.missing(1)),
    ):
        document = signed(OTHER, text)
        assert "states no erasure" in fault_of(document, OTHER.public)


def test_a_record_that_has_another_number_than_its_place_is_found() -> None:
    document = signed(OTHER, STATEMENT["record"], place=2)
    assert fault_of(document, OTHER.public).startswith("recordId: ")


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_a_missing_field_is_named(name: str) -> None:
    document = changed()
    del document[name]
    assert f"it has no {name}" in fault_of(document)


def test_a_field_that_no_statement_has_is_named_since_nothing_vouches_for_it() -> None:
    assert "'remark'" in fault_of(changed(remark="Everything was erased."))


@pytest.mark.parametrize("name", ["recordId", "record", "hashes", "checkpoint", "publicKey"])
@pytest.mark.parametrize("value", [None, True, 1.5, {}, "text", []])
def test_a_field_of_a_wrong_type_is_found(name: str, value: Any) -> None:
    fault_of(changed(**{name: value}))


def test_a_receipt_without_the_statement_says_where_it_is() -> None:
    assert "/v1/erasures/7" in fault_of({"id": "1", "statementHref": "/v1/erasures/7"})


@hypothesis.given(st.binary(max_size=200))
def test_bytes_that_are_no_statement_are_refused_in_one_line(content: bytes) -> None:
    with pytest.raises(InvalidStatement) as caught:
        parse_statement(content)
    assert len(str(caught.value).splitlines()) == 1


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


@hypothesis.given(st.sampled_from(sorted(FIELDS)), VALUES)
def test_any_value_in_the_place_of_any_field_is_found(name: str, value: Any) -> None:
    if orjson.dumps(value) != orjson.dumps(STATEMENT[name]):
        fault_of(changed(**{name: value}))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not an object"),
        (b"{}", "it has no recordId"),
        (b'{"statementHref":"/v1/erasures/7","statement":7}', "not an object"),
        (orjson.dumps(changed(app="other")), "app: differs"),
    ],
)
def test_the_command_says_what_is_wrong_and_exits_with_1(
    tmp_path: Path, content: bytes, said: str
) -> None:
    (tmp_path / "s.json").write_bytes(content)
    words = ["audit", "verify", "--statement", "s.json", "--public-key", PUBLIC_KEY]
    done = ended(tmp_path, *words)
    assert (done.returncode, done.stderr) == (1, "")
    (line,) = done.stdout.splitlines()
    assert said in line
    done = ended(tmp_path, *words, "--json")
    assert done.returncode == 1
    assert orjson.loads(done.stdout)["valid"] is False


def test_a_file_that_is_not_there_and_options_of_a_log_are_bad_use(tmp_path: Path) -> None:
    words = ["audit", "verify", "--statement", "none.json", "--public-key", PUBLIC_KEY]
    done = ended(tmp_path, *words)
    assert (done.returncode, "none.json" in done.stderr) == (2, True)
    done = ended(tmp_path, *words, "--acknowledge", "3")
    assert (done.returncode, "--statement" in done.stderr) == (2, True)
