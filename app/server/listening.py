"""The socket that the HTTP server listens on."""

import socket

import structlog

from app.errors import StartRefused
from app.settings import Settings


def listen(settings: Settings) -> socket.socket:
    """Return a socket bound to the configured address.

    Raises StartRefused if the address is in use or not one of this machine.
    """
    host, port = settings.gateway_host, settings.gateway_port
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if host == "::":
        # Accept IPv4 as well, even if the default of the system is IPv6 only
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise StartRefused(
            f"GATEWAY_PORT: cannot listen on {host}:{port}: {error.strerror}"
        ) from error
    return listener


def log_listening(listener: socket.socket, root_path: str) -> None:
    """Log where the server listens."""
    host, port = listener.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    structlog.get_logger("start").info(
        "server.listening", host=host, port=port, url=url, docs=f"{url}{root_path}/docs"
    )
