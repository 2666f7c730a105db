"""A simulator behind TLS of a private authority, and a proxy that opens tunnels to it."""

import base64
import datetime
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path

import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from app.simulator.application import create_app
from app.simulator.config import SimulatorConfig


@dataclass(frozen=True)
class Files:
    """PEM files: the authority's certificate, and the server's with its key."""

    authority: Path
    server: Path


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def make_files(folder: Path, *, self_signed: bool = False, days: int = 2) -> Files:
    """Make a private authority and a certificate for 127.0.0.1 that is valid for so many days."""
    now = datetime.datetime.now(datetime.UTC)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [_name("Private authority"), _name("leanplum")]
    made = []
    for which, (key, name) in enumerate(zip(keys, names, strict=True)):
        issuer = which if self_signed else 0
        builder = (
            x509.CertificateBuilder(
                names[issuer], name, key.public_key(), x509.random_serial_number()
            )
            .not_valid_before(now - datetime.timedelta(days=3))
            .not_valid_after(now + datetime.timedelta(days=days if which else 2))
            .add_extension(x509.BasicConstraints(ca=not which, path_length=None), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(keys[issuer].public_key()),
                critical=False,
            )
        )
        if which:
            alternatives = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
            builder = builder.add_extension(alternatives, critical=False)
        made.append(
            builder.sign(keys[issuer], hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        )
    private = keys[1].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    files = Files(folder / "authority.pem", folder / "server.pem")
    files.authority.write_bytes(made[0])
    files.server.write_bytes(private + made[1])
    return files


@contextmanager
def encrypted_simulator(files: Files) -> Iterator[str]:
    """The URL of a simulator that speaks TLS."""
    config = uvicorn.Config(
        create_app(SimulatorConfig()),
        port=0,
        ssl_certfile=str(files.server),
        log_config=None,
        lifespan="off",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the simulator did not start"
        time.sleep(0.01)
    try:
        yield f"https://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


@dataclass
class TunnelProxy:
    """A proxy that only knows CONNECT, and asks for `user:password` where that is given."""

    credentials: str | None = None
    certificate: Path | None = None
    heads: list[str] = field(default_factory=list)

    @property
    def port(self) -> int:
        port: int = self._listener.getsockname()[1]
        return port

    @contextmanager
    def running(self) -> Iterator["TunnelProxy"]:
        with socket.create_server(("127.0.0.1", 0)) as self._listener:
            threading.Thread(target=self._accept, daemon=True).start()
            yield self

    def _accept(self) -> None:
        with suppress(OSError):  # it is closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _encrypted(self, client: socket.socket) -> socket.socket:
        if self.certificate is None:
            return client
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate)
        return context.wrap_socket(client, server_side=True)

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError), self._encrypted(client) as client:
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(65_536)
            self.heads.append(head.decode())
            if self.credentials is not None:
                wanted = b"Basic " + base64.b64encode(self.credentials.encode())
                if wanted not in head:
                    client.sendall(b"HTTP/1.1 407 Say hunter2\r\nContent-Length: 0\r\n\r\n")
                    return
            method, target, _ = head.split(b" ", 2)
            if method != b"CONNECT":
                client.sendall(b"HTTP/1.1 405 No\r\nContent-Length: 0\r\n\r\n")
                return
            host, _, port = target.decode().rpartition(":")
            with socket.create_connection((host, int(port))) as server:
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                back = threading.Thread(target=_pump, args=(server, client), daemon=True)
                back.start()
                _pump(client, server)
                back.join(5)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
