"""Servers that speak TLS, with certificates of an authority that is made for the test.

    authority = Authority()
    with redis_with_tls(authority.issue("localhost"), clients=authority) as port: ...

A server does it itself if it was built with TLS (those of distributions are, those that PyPI packages carry are not);
in front of another stands a proxy, which ends TLS with the same certificates.
"""

from __future__ import annotations

import select
import socket
import ssl
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from localfirst.testing.servers import PostgresServer, RedisServer, ServerError
from localfirst.testing.servers.process import LOOPBACK, free_port

_WITHOUT_TLS: Final = ("TLS", "SSL is not supported")
_SSL_REQUEST_BYTES: Final = 8
_CHUNK: Final = 1 << 16


class Certificate(NamedTuple):
    """A certificate and its key, as PEM."""

    certificate: bytes
    key: bytes

    def save(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Files with the two."""
        files = folder / f"{name}.crt", folder / f"{name}.key"
        for file, data in zip(files, self, strict=True):
            file.write_bytes(data)
            file.chmod(0o600)
        return files


class Authority:
    """Vouches for certificates."""

    def __init__(self, name: str = "authority") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        constraint = x509.BasicConstraints(ca=True, path_length=None)
        self._certificate = self._signed(self._name, self._key, constraint, days=1)
        self.certificate: Final = self._certificate.public_bytes(Encoding.PEM)

    def issue(self, name: str, *, days: int = 1) -> Certificate:
        """A certificate for a host, an address or a user, that is good for so many days (below 0: was, until then)."""
        key = ec.generate_private_key(ec.SECP256R1())
        try:
            host: x509.GeneralName = x509.IPAddress(ip_address(name))
        except ValueError:
            host = x509.DNSName(name)
        certificate = self._signed(_named(name), key, x509.SubjectAlternativeName([host]), days=days)
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return Certificate(certificate.public_bytes(Encoding.PEM), private)

    def _signed(
        self, name: x509.Name, key: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType, *, days: int
    ) -> x509.Certificate:
        now = datetime.now(timezone.utc)
        builder = x509.CertificateBuilder(self._name, name, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(days=3)).not_valid_after(now + timedelta(days=days))
        builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(self._key, SHA256())


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


@contextmanager
def redis_with_tls(own: Certificate, clients: Authority | None = None) -> Iterator[int]:
    """The port of a Redis server that speaks TLS; with `clients` it asks for a certificate of theirs."""
    port = free_port()
    settings = {
        "tls-port": str(port),
        "tls-cert-file": "tls.crt",
        "tls-key-file": "tls.key",
        "tls-ca-cert-file": "clients.crt",
        "tls-auth-clients": "yes" if clients else "no",
    }
    server = RedisServer(persistent=False, settings=settings)
    _furnish(server, own, clients)
    try:
        with server:
            yield port
    except ServerError as error:
        if not any(sign in str(error) for sign in _WITHOUT_TLS):
            raise
        with RedisServer(persistent=False) as plain, _tls_proxy(plain.port, own, clients) as proxied:
            yield proxied


@contextmanager
def postgres_with_tls(own: Certificate, clients: Authority | None = None) -> Iterator[int]:
    """The port of a Postgres server that speaks TLS only; with `clients` it asks for a certificate of theirs."""
    settings = {
        "ssl": "on",
        "ssl_cert_file": "../tls.crt",
        "ssl_key_file": "../tls.key",
        "ssl_ca_file": "../clients.crt",
        "hba_file": "hba",  # this one begins where the server was started
    }
    server = PostgresServer(settings=settings)
    _furnish(server, own, clients)
    server.write("hba", b"hostssl all all all trust" + (b" clientcert=verify-ca\n" if clients else b"\n"))
    try:
        with server:
            yield server.port
    except ServerError as error:
        if not any(sign in str(error) for sign in _WITHOUT_TLS):
            raise
        with PostgresServer() as plain, _tls_proxy(plain.port, own, clients, postgres=True) as proxied:
            yield proxied


def _furnish(server: RedisServer | PostgresServer, own: Certificate, clients: Authority | None) -> None:
    server.write("tls.crt", own.certificate)
    server.write("tls.key", own.key)
    server.write("clients.crt", clients.certificate if clients else own.certificate)


@contextmanager
def _tls_proxy(target: int, own: Certificate, clients: Authority | None, *, postgres: bool = False) -> Iterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        context.load_cert_chain(*own.save(Path(folder), "tls"))
    if clients:
        context.load_verify_locations(cadata=clients.certificate.decode())
        context.verify_mode = ssl.CERT_REQUIRED

    def lead(client: socket.socket) -> None:
        with suppress(OSError), client:
            if postgres:
                client.recv(_SSL_REQUEST_BYTES, socket.MSG_WAITALL)
                client.sendall(b"S")
            near = context.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
            with near, socket.create_connection((LOOPBACK, target)) as far:
                try:
                    near.do_handshake()
                except ssl.SSLError:
                    _let_read(near)
                else:
                    _carry(near, far)

    def accept() -> None:
        with suppress(OSError):  # the listener is closed
            while True:
                threading.Thread(target=lead, args=listener.accept()[:1], daemon=True).start()

    with socket.create_server((LOOPBACK, 0)) as listener:
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def _let_read(refused: ssl.SSLSocket) -> None:
    """A connection that is closed before all was read is reset: then the client would not see why it was refused."""
    with socket.socket(fileno=refused.detach()) as plain:
        plain.shutdown(socket.SHUT_WR)
        plain.settimeout(1.0)
        while plain.recv(_CHUNK):
            pass


def _carry(near: ssl.SSLSocket, far: socket.socket) -> None:
    """Both ways, until one side ends."""
    while True:
        ready = [near] if near.pending() else select.select([near, far], [], [])[0]
        for source in ready:
            data = source.recv(_CHUNK)
            if not data:
                return
            (far if source is near else near).sendall(data)
