"""Connections to Leanplum: the proxy, the trusted certificates, and reasons of failures."""

import errno
import os
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

import certifi
from pydantic import SecretStr

TAKES = "takes http:// or https://, then [USER:PASSWORD@]HOST[:PORT]"
LOCAL = frozenset({"127.0.0.1", "localhost", "::1"})
PROXY_VARIABLES = ("https_proxy", "all_proxy")
ERRNO_REASONS = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "connection reset",
    errno.ECONNABORTED: "connection reset",
    errno.EPIPE: "connection reset",
    errno.EHOSTUNREACH: "no route to host",
    errno.ENETUNREACH: "network unreachable",
    errno.ETIMEDOUT: "connection timed out",
}
ERROR_REASONS = {
    "ConnectTimeout": "connection timed out",
    "PoolTimeout": "no free connection",
    "ReadTimeout": "no answer in time",
    "TimeoutError": "no answer in time",
}


@dataclass(frozen=True, slots=True)
class Route:
    """The route to Leanplum.

    `trust_env`: whether the standard variables count (HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE,
    SSL_CERT_DIR); `proxy` comes before them.
    """

    proxy: SecretStr | None = None
    ca_file: Path | None = None
    trust_env: bool = False

    @property
    def proxy_is_safe(self) -> bool:
        """Return whether unencrypted traffic to the proxy stays on this machine."""
        parts = urlsplit(self.proxy.get_secret_value() if self.proxy else "")
        return parts.scheme == "https" or parts.hostname in LOCAL

    @property
    def uses_env_proxies(self) -> bool:
        """Return whether the environment decides by which proxy a call goes."""
        return self.trust_env and self.proxy is None and bool(getproxies())

    def context(self, environ: Mapping[str, str] = os.environ) -> ssl.SSLContext:
        """Return the TLS context: it trusts the usual authorities, and those of `ca_file`.

        Raises ValueError where a file cannot be read, or has no certificates in it.
        """
        file = environ.get("SSL_CERT_FILE") if self.trust_env else None
        folder = environ.get("SSL_CERT_DIR") if self.trust_env else None
        if folder and not file:
            context = ssl.create_default_context(capath=folder)
        else:
            context = ssl.create_default_context(cafile=certifi.where())
            if file:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                _load(context, "SSL_CERT_FILE", Path(file))
        if self.ca_file is not None:
            _load(context, "GATEWAY_UPSTREAM_CA_FILE", self.ca_file)
        return context

    def faults(self, environ: Mapping[str, str] = os.environ) -> Iterator[str]:
        """Yield a line for each file or variable that cannot be used."""
        try:
            self.context(environ)
        except ValueError as error:
            yield str(error)
        if not self.trust_env:
            return
        for name in PROXY_VARIABLES:
            for spelled in (name, name.upper()):
                url = environ.get(spelled, "")
                if url and not is_proxy(url if "://" in url else f"http://{url}"):
                    yield f"{spelled}: {TAKES}"


def is_proxy(url: str) -> bool:
    """Return whether a text is the URL of a proxy that may be used."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError where it is no port
    except ValueError:
        return False
    whole = parts.path in {"", "/"} and not parts.query and not parts.fragment
    return (
        parts.scheme in {"http", "https"}
        and bool(parts.hostname)
        and whole
        and not re.search(r"\s", url)
    )


def _load(context: ssl.SSLContext, setting: str, path: Path) -> None:
    """Trust the authorities in a PEM file as well. Raises ValueError, in one line."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{setting}: {path} can't be read: {error.strerror}") from None
    try:
        context.load_verify_locations(cadata=text.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError):
        raise ValueError(f"{setting}: {path} has no certificates that can be read (PEM)") from None


def failure_reason(error: BaseException) -> str:
    """Return why no response came, without any of the request; at worst the error's name."""
    if type(error).__name__ == "ProxyError":
        return f"proxy answered {_status(str(error))}"
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"certificate verify failed: {cause.verify_message.rstrip('.')}"
        if isinstance(cause, ssl.SSLError) and cause.reason:
            return f"TLS failed: {cause.reason.lower().replace('_', ' ')}"
        if isinstance(cause, socket.gaierror):
            return "name not resolved"
        if isinstance(cause, OSError) and cause.errno in ERRNO_REASONS:
            return ERRNO_REASONS[cause.errno]
    return ERROR_REASONS.get(type(error).__name__, type(error).__name__)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error and its causes; of a group, the first error."""
    while error is not None:
        yield error
        error = _cause(error)


def _cause(error: BaseException) -> BaseException | None:
    if isinstance(error, BaseExceptionGroup):
        return error.exceptions[0]
    return error.__cause__ or error.__context__


def _status(text: str) -> str:
    """Return the proxy's status with its usual phrase: the proxy's own words are not repeated."""
    code = text[:3]
    if not (code.isascii() and code.isdecimal()):
        return "without a status"
    phrase = next((status.phrase for status in HTTPStatus if status.value == int(code)), "")
    return f"{code} {phrase}".rstrip()
