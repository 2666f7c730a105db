"""Advice for connections to PostgreSQL that fail, by the words of the driver."""

ADVICE = {
    "certificate verify failed": (
        "sslrootcert must name the authority that signed the server's certificate"
    ),
    "does not match host name": (
        "the URL must name the server as its certificate does; sslmode=verify-ca does not compare"
    ),
    "no encryption": "if the server wants TLS, set sslmode=require or sslmode=verify-full",
    "server does not support SSL": (
        "set ssl = on in the server's configuration; sslmode=prefer connects without TLS"
    ),
    "session is read-only": "no server of the URL takes writes; promote a standby",
}


def advice_on(message: str) -> str:
    """Return what to do about an error, "" if the error itself says it."""
    found = [advice for words, advice in ADVICE.items() if words in message]
    return found[0] if found else ""
