"""Headers of files that Leanplum sends, whose media type is its own."""

from collections.abc import Mapping


def headers_of_file(found: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Return the headers of the answer that passes a file on: a browser saves it, and never shows
    it.

    `found`: the headers that came with the file. It is passed on decompressed.
    """
    media = found.get("content-type", "application/octet-stream")
    told = {"content-type": media, "content-disposition": "attachment"}
    passed_on = (
        {"etag"} if "content-encoding" in found else {"content-length", "etag", "last-modified"}
    )
    told |= {name: found[name] for name in sorted(passed_on & found.keys())}
    return [(name.encode(), value.encode("latin-1")) for name, value in told.items()]
