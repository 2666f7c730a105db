"""Response headers that keep browsers from running, framing or caching what is sent."""

from collections.abc import Mapping

NO_SNIFF = (b"x-content-type-options", b"nosniff")
POLICY_HEADER, CACHE_HEADER = b"content-security-policy", b"cache-control"
# Pages have a policy of their own.
STRICT_POLICY = (POLICY_HEADER, b"default-src 'none'; frame-ancestors 'none'")
NO_STORE = (CACHE_HEADER, b"no-store")  # responses under /v1 have personal data or keys
PAGE_HEADERS = [(b"x-frame-options", b"DENY"), (b"referrer-policy", b"no-referrer")]
# For responses that a browser must not show as pages of this origin.
BROWSER_GUARDS = [*PAGE_HEADERS, STRICT_POLICY]


def headers_of_file(upstream: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Return the headers with which a file from Leanplum is passed on, decompressed.

    `upstream` are Leanplum's headers. Browsers save the file and never display it.
    """
    media_type = upstream.get("content-type", "application/octet-stream")
    headers = {"content-type": media_type, "content-disposition": "attachment"}
    passed_on = ["content-length", "etag", "last-modified"]
    if "content-encoding" in upstream:
        passed_on = ["etag"]
    headers |= {name: upstream[name] for name in passed_on if name in upstream}
    return [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
