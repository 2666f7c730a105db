"""The Idempotency-Key header, as draft-ietf-httpapi-idempotency-key-header has it and as it is
often sent. Pure.
"""

import re

from app.errors import Fault, Invalid

NAME = "Idempotency-Key"
# A string of RFC 8941, which may have parameters.
_STRING = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"\s*(?:;.*)?')


def key_of(header: str) -> str:
    """Return the key of a header: what is in double quotes, or the text as it is. Raises
    Invalid.
    """
    text = header.strip()
    if not text.startswith('"'):
        return text
    found = _STRING.fullmatch(text)
    if found is None:
        detail = 'takes a key as it is, or in double quotes with \\" and \\\\ inside (RFC 8941)'
        raise Invalid((Fault(NAME, detail, "header", "header"),))
    return re.sub(r"\\(.)", r"\1", found[1])
