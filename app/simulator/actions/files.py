"""Files of the app: uploadFile, downloadFile (fact sheet §3.5, §3.6)."""

from typing import Any

from app.simulator.actions.handler import Extra, Moved, Refused, Turn
from app.simulator.shelf import StoredFile
from app.simulator.values import parsed_data, text

MAX_FILES = 16
MAX_FILES_IOS = 100
MAX_CALL_BYTES = 50_000_000
MAX_STORED_BYTES = 64 * 1024 * 1024


def upload_file(turn: Turn) -> Extra:
    """Keep the files of a call, or none of them; `size` and `hash` are not compared with the bytes
    (I).
    """
    files = _files(turn)
    if sum(len(file.content) for file in files) > MAX_CALL_BYTES:
        raise Refused(turn.texts.upload_too_large, 400)
    if turn.world.shelf.size_with(files) > MAX_STORED_BYTES:
        raise Refused(turn.texts.shelf_full, 403)
    turn.world.shelf.upload(files)
    return {}


def download_file(turn: Turn) -> Extra:
    """A redirect to the bytes; how an unknown file is answered is not documented (I)."""
    file = turn.world.shelf.uploads.get(turn.needed("filename"))
    if file is None:
        raise Refused(turn.texts.file_not_found, 404)
    raise Moved(file.url(turn.around.origin))


def _files(turn: Turn) -> list[StoredFile]:
    """`data` describes file0, file1 and so on; without it one file is described by the arguments
    themselves.
    """
    if not turn.given("data"):
        return [_file(turn, turn.item, "file")]
    described = parsed_data(turn.item["data"])
    if not isinstance(described, list) or not all(isinstance(each, dict) for each in described):
        raise turn.invalid("data")
    if len(described) > (MAX_FILES_IOS if turn.text("client") == "ios" else MAX_FILES):
        raise Refused(turn.texts.upload_too_large, 400)
    return [_file(turn, each, f"file{index}") for index, each in enumerate(described)]


def _file(turn: Turn, described: dict[str, Any], part: str) -> StoredFile:
    name, upload = text(described.get("filename")), turn.around.files.get(part)
    if not name:
        raise turn.missing("filename")
    if upload is None:
        raise turn.missing(part)
    return StoredFile(name, upload.content, text(described.get("hash")))
