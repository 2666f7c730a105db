"""The static files of pages.

The URL of a file contains a hash of its content, so browsers keep the file for good and ask again
only when it has changed.
"""

from functools import cache
from importlib.resources import files
from mimetypes import guess_type

from fastapi import Request, Response

from app.errors import NotFound
from app.pages.content import Content

FOLDER = files("app.pages") / "assets"
KEPT = "public, max-age=31536000, immutable"
NOT_KEPT = "no-cache"  # browsers ask each time whether it has changed


@cache
def _names() -> frozenset[str]:
    return frozenset(file.name for file in FOLDER.iterdir())


@cache
def _content(name: str) -> Content:
    media_type = guess_type(name)[0] or "application/octet-stream"
    return Content((FOLDER / name).read_bytes(), media_type)


def asset_path(name: str) -> str:
    """Return the path of a file's URL, which a path prefix may have to precede.

    Raises KeyError if no file has this name.
    """
    if name not in _names():
        raise KeyError(name)
    return f"/assets/{_content(name).version}/{name}"


async def asset_response(request: Request, version: str, name: str) -> Response:
    """Return the response with a file. Raises NotFound.

    While replicas are upgraded, a page of one release may ask another release for its files: for a
    version that is not that of the file, the file is sent for this time only.
    """
    if name not in _names():
        raise NotFound("No file has this name.")
    content = _content(name)
    kept = KEPT if version == content.version else NOT_KEPT
    return await content.response(request, {"Cache-Control": kept})
