"""The proxy that other tests rely on, in front of a server that gives back what it gets."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import pytest

from tests.faults.proxy import Proxy


class Echo(socketserver.BaseRequestHandler):
    """Gives back what it gets, until the client ends."""

    def handle(self) -> None:
        try:
            while data := self.request.recv(1 << 16):
                self.request.sendall(data)
        except OSError:
            pass  # It was cut off.


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Server(("127.0.0.1", 0), Echo) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        try:
            with Proxy(server.server_address[1]) as proxy:
                yield proxy
        finally:
            server.shutdown()


def connected(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=5.0)


def echoed(connection: socket.socket, data: bytes) -> bytes:
    """What comes back of some bytes, until all have or the connection ends."""
    connection.sendall(data)
    return received(connection, len(data))


def received(connection: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size and (data := connection.recv(size - len(found))):
        found += data
    return found


def seconds_to_echo(connection: socket.socket, data: bytes) -> float:
    began = time.monotonic()
    assert echoed(connection, data) == data
    return time.monotonic() - began


def test_it_passes_everything_and_counts_it(proxy: Proxy) -> None:
    data = bytes(range(256)) * 10_000
    connection = connected(proxy)
    sending = threading.Thread(target=connection.sendall, args=(data,))
    sending.start()
    assert received(connection, len(data)) == data
    sending.join(10)
    with connected(proxy) as other:
        assert echoed(other, b"x") == b"x"
    assert (proxy.traffic.up, proxy.traffic.down) == (len(data) + 1, len(data) + 1)
    assert proxy.traffic.connections == 2
    connection.close()


def test_the_end_of_one_side_comes_through(proxy: Proxy) -> None:
    with connected(proxy) as connection:
        connection.sendall(b"last words")
        connection.shutdown(socket.SHUT_WR)
        assert received(connection, 1000) == b"last words"


def test_it_cuts_connections_and_takes_new_ones(proxy: Proxy) -> None:
    with connected(proxy) as first, connected(proxy) as second:
        for connection in (first, second):
            assert echoed(connection, b"x") == b"x"
        proxy.cut()
        for connection in (first, second):
            with pytest.raises(ConnectionResetError):
                connection.recv(1)
    with connected(proxy) as after:
        assert echoed(after, b"x") == b"x"


def test_it_refuses_new_connections_only(proxy: Proxy) -> None:
    with connected(proxy) as before:
        assert echoed(before, b"x") == b"x"
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            connected(proxy)
        assert echoed(before, b"y") == b"y"
        proxy.heal()
    with connected(proxy) as after:
        assert echoed(after, b"x") == b"x"


def test_it_delays_each_way_and_keeps_the_order(proxy: Proxy) -> None:
    with connected(proxy) as connection:
        assert seconds_to_echo(connection, b"x") < 0.1
        proxy.delay(0.1, jitter=0.05)
        assert 0.2 <= seconds_to_echo(connection, b"x") < 0.5
        for number in range(20):
            connection.sendall(b"%02d" % number)
        assert received(connection, 40) == b"".join(b"%02d" % number for number in range(20))
        proxy.heal()
        assert seconds_to_echo(connection, b"x") < 0.1


def test_what_is_delayed_waits_side_by_side(proxy: Proxy) -> None:
    proxy.delay(0.3)
    with connected(proxy) as connection:
        for _ in range(10):
            connection.sendall(b"x")
            time.sleep(0.005)  # Else they would be one piece.
        assert received(connection, 1) == b"x"
        first = time.monotonic()
        assert received(connection, 9) == b"x" * 9
        assert time.monotonic() - first < 0.25


def test_it_throttles(proxy: Proxy) -> None:
    proxy.throttle(20_000)
    with connected(proxy) as connection:
        assert 0.2 <= seconds_to_echo(connection, b"x" * 5_000) < 1.5


def test_it_closes_a_connection_in_the_middle_of_a_reply(proxy: Proxy) -> None:
    with connected(proxy) as connection:
        assert echoed(connection, b"whole") == b"whole"
        proxy.truncate(7)
        assert echoed(connection, b"12345") == b"12345"
        assert echoed(connection, b"67890") == b"67"
    with connected(proxy) as after:
        assert echoed(after, b"x" * 100) == b"x" * 100


def test_it_swallows_and_delivers_when_it_is_healed(proxy: Proxy) -> None:
    with connected(proxy) as before:
        assert echoed(before, b"x") == b"x"
        proxy.swallow()
        with connected(proxy) as during:
            for connection in (before, during):
                connection.sendall(b"hello")
                connection.settimeout(0.1)
                with pytest.raises(TimeoutError):
                    connection.recv(1)
            proxy.heal()
            for connection in (before, during):
                connection.settimeout(5.0)
                assert received(connection, 5) == b"hello"


def test_it_resets_connections_while_the_server_is_gone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    with Proxy(port) as proxy, pytest.raises(ConnectionResetError), connected(proxy) as connection:
        connection.recv(1)


def test_it_leads_to_another_server(proxy: Proxy) -> None:
    with Server(("127.0.0.1", 0), Echo) as other:
        with connected(proxy) as before:
            assert echoed(before, b"x") == b"x"
            proxy.lead_to(other.server_address[1])
            with pytest.raises(ConnectionResetError):
                before.recv(1)
        with connected(proxy):
            other.handle_request()  # Only the other server has something to take.


def test_it_counts_round_trips_of_a_slow_line(proxy: Proxy) -> None:
    proxy.delay(0.2)
    with connected(proxy) as connection:
        for _ in range(3):
            connection.sendall(b"in two")
            time.sleep(0.002)
            connection.sendall(b" pieces")
            assert received(connection, 13) == b"in two pieces"
    assert proxy.traffic.requests == 3


def test_it_leaves_nothing_behind(proxy: Proxy) -> None:
    connection = connected(proxy)
    assert echoed(connection, b"x") == b"x"
    proxy.close()
    with pytest.raises(ConnectionResetError):
        connection.recv(1)
    connection.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "proxy"]


def test_the_address_leads_through_it(proxy: Proxy) -> None:
    with Proxy(6379) as redis:
        assert redis.url("redis://:pass@127.0.0.1:6379/0") == f"redis://:pass@127.0.0.1:{redis.port}/0"
