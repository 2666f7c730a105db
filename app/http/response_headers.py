"""Headers that keep what is answered from being run, framed or cached; headers of files that Leanplum sends."""

from collections.abc import Mapping

NO_SNIFF = (b"x-content-type-options", b"nosniff")
POLICY_HEADER, CACHE_HEADER = b"content-security-policy", b"cache-control"
STRICT_POLICY = (
    POLICY_HEADER,
    b"default-src 'none'; frame-ancestors 'none'",
)  # pages have their own
NO_STORE = (CACHE_HEADER, b"no-store")  # what is answered under /v1 is somebody's data, or a key
PAGE_HEADERS = [(b"x-frame-options", b"DENY"), (b"referrer-policy", b"no-referrer")]
BROWSER_GUARDS = [
    *PAGE_HEADERS,
    STRICT_POLICY,
]  # of what a browser must not show as a page of this origin


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
