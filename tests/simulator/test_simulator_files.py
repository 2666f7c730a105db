"""Files of the app: uploaded as multipart, fetched by way of a redirect (fact sheet §3.5, §3.6)."""

import hashlib
import json
from typing import Any

import httpx
import pytest

from app.simulator.actions.content import MAX_CALL_BYTES

from .client import Json, Talk, message

BYTES = bytes(range(256))


def upload(leanplum: Talk, parts: Json, **args: Any) -> httpx.Response:
    """An uploadFile of these file parts."""
    fields = {
        name: (None, str(value))
        for name, value in {**leanplum.keys("dev"), "action": "uploadFile", **args}.items()
    }
    files = {name: (f"{name}.bin", content) for name, content in parts.items()}
    return leanplum.http.post("/api", files={**fields, **files})


def uploaded(leanplum: Talk) -> list[Json]:
    found = leanplum.http.get("/_simulator/files").json()["files"]
    assert isinstance(found, list)
    return found


def test_a_single_file_is_uploaded_and_shown(leanplum: Talk) -> None:
    answer = upload(leanplum, {"file": BYTES}, filename="a/logo.png", size=256, hash="h1")
    assert answer.json() == {"response": [{"success": True}]}
    sha256 = hashlib.sha256(BYTES).hexdigest()
    assert uploaded(leanplum) == [
        {"name": "a/logo.png", "size": 256, "sha256": sha256, "hash": "h1"}
    ]


def test_several_files_are_uploaded_with_their_descriptions_in_data(leanplum: Talk) -> None:
    data = json.dumps(
        [{"filename": "a", "size": 1, "hash": "x"}, {"filename": "b", "size": 2, "hash": "y"}]
    )
    assert upload(leanplum, {"file0": b"1", "file1": b"22"}, data=data).status_code == 200
    assert [(file["name"], file["size"], file["hash"]) for file in uploaded(leanplum)] == [
        ("a", 1, "x"),
        ("b", 2, "y"),
    ]


def test_a_file_of_the_same_name_takes_the_place_of_the_earlier_one(leanplum: Talk) -> None:
    upload(leanplum, {"file": b"1"}, filename="a")
    upload(leanplum, {"file": b"333"}, filename="a")
    assert [file["size"] for file in uploaded(leanplum)] == [3]


@pytest.mark.parametrize(
    ("parts", "args", "text"),
    [
        ({"file": b"1"}, {}, "filename"),
        ({}, {"filename": "a"}, "file"),
        ({"file0": b"1"}, {"data": '[{"filename": "a"}, {"filename": "b"}]'}, "file1"),
        ({"file0": b"1"}, {"data": "[1]"}, "data"),
        (
            {"file0": b"1"},
            {"data": json.dumps([{"filename": str(index)} for index in range(17)])},
            "limit",
        ),
    ],
)
def test_an_upload_that_is_not_whole_stores_nothing(
    leanplum: Talk, parts: Json, args: Json, text: str
) -> None:
    answer = upload(leanplum, parts, **args)
    assert answer.status_code == 400
    assert text in message(answer.json()["response"][0], "error")
    assert uploaded(leanplum) == []


def test_an_upload_of_more_than_fifty_megabytes_is_refused(leanplum: Talk) -> None:
    assert upload(leanplum, {"file": bytes(MAX_CALL_BYTES + 1)}, filename="a").status_code == 400
    leanplum.http.post("/_simulator/reset")


def test_all_uploads_together_have_a_limit(leanplum: Talk) -> None:
    statuses = [
        upload(leanplum, {"file": bytes(40_000_000)}, filename=name).status_code
        for name in ("a", "a", "b")
    ]
    assert statuses == [200, 200, 403]
    leanplum.http.post("/_simulator/reset")


def test_a_download_is_redirected_to_the_bytes(leanplum: Talk) -> None:
    upload(leanplum, {"file": BYTES}, filename="a/lo go.png")
    answer = leanplum.call("downloadFile", filename="a/lo go.png")
    location = answer.headers["location"]
    assert (answer.status_code, answer.content) == (302, b"")
    assert location.startswith(str(leanplum.http.base_url))
    assert leanplum.http.get(location).content == BYTES


def test_a_file_is_answered_to_its_token_only(leanplum: Talk) -> None:
    upload(leanplum, {"file": BYTES}, filename="a")
    assert leanplum.http.get("/_files/a").status_code == 404
    assert leanplum.http.get("/_files/a?token=x").status_code == 404


def test_an_unknown_file_is_404(leanplum: Talk) -> None:
    answer = leanplum.call("downloadFile", filename="nothing")
    assert answer.status_code == 404
    assert message(answer.json()["response"][0], "error") == "File not found."


def test_a_download_inside_a_multi_is_refused(leanplum: Talk) -> None:
    upload(leanplum, {"file": BYTES}, filename="a")
    first, second = leanplum.entries({"action": "downloadFile", "filename": "a"}, {"action": "log"})
    assert "alone" in message(first, "error")
    assert (first["success"], second["success"]) == (False, True)


def test_a_planned_fault_strikes_a_download_too(leanplum: Talk) -> None:
    upload(leanplum, {"file": BYTES}, filename="a")
    leanplum.plan({"mode": "success-false"}, {"mode": "503"}, {"mode": "slow", "delay": 0.01})
    assert [leanplum.call("downloadFile", filename="a").status_code for _ in range(4)] == [
        200,
        503,
        302,
        302,
    ]


@pytest.mark.parametrize("kind", ["prod", "exp", "cro"])
def test_uploading_takes_the_development_key(leanplum: Talk, kind: str) -> None:
    assert upload(leanplum, {"file": BYTES}, filename="a", **leanplum.keys(kind)).status_code == 403


def test_the_page_of_requests_shows_the_size_of_each_file(leanplum: Talk) -> None:
    upload(leanplum, {"file": BYTES}, filename="a")
    (request,) = leanplum.requests()
    assert request["args"]["file"] == "(file file.bin)"
    assert request["files"] == {"file": {"filename": "file.bin", "bytes": 256}}
