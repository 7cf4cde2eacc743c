"""TLS to both servers: what it takes, whom it refuses, and that nothing ever goes in the clear instead."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode

import pytest

from localfirst.errors import ConfigurationError, RemoteUnavailable
from localfirst.testing.conformance import CASES, HINT_CASES, check
from sync.central import connect
from tests.faults.tls import Authority, postgres_with_tls, redis_with_tls
from tests.integration.stores import Open, contents, settle
from tests.integration.strangers import answering
from tests.polling import eventually

SERVERS: Final = {"redis": redis_with_tls, "postgres": postgres_with_tls}
OPTIONS: Final = {
    "redis": ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"),
    "postgres": ("sslrootcert", "sslcert", "sslkey"),
}
SSL_REQUEST: Final = bytes.fromhex("0000000804d2162f")


class Site(NamedTuple):
    """A server for `localhost` that asks its clients for certificates."""

    backend: str
    port: int
    folder: Path
    """ca.crt vouches for the server, me.crt and me.key are what it asks for; of the other ones it knows nothing."""

    def url(self, host: str = "localhost", *, ca: str | None = "ca", client: str | None = "me") -> str:
        names = [f"{ca}.crt" if ca else None, *([f"{client}.crt", f"{client}.key"] if client else [None, None])]
        files = zip(OPTIONS[self.backend], names, strict=True)
        return url(self.backend, host, self.port, {name: str(self.folder / file) for name, file in files if file})


def url(backend: str, host: str, port: int, options: dict[str, str], password: str = "") -> str:
    """The address of a server that is to speak TLS."""
    if backend == "redis":
        return f"rediss://:{password}@{host}:{port}/0?{urlencode(options)}".replace(":@", "")
    options = {"sslmode": "verify-full", **options}
    return f"postgresql://postgres:{password}@{host}:{port}/postgres?{urlencode(options)}".replace(":@", "@")


@pytest.fixture(scope="module", params=SERVERS)
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("tls")
    ours, clients, others = Authority("ours"), Authority("clients"), Authority("others")
    (folder / "ca.crt").write_bytes(ours.certificate)
    (folder / "other-ca.crt").write_bytes(others.certificate)
    clients.issue("me").save(folder, "me")
    others.issue("me").save(folder, "stranger")
    with SERVERS[request.param](ours.issue("localhost"), clients) as port:
        yield Site(request.param, port, folder)


async def test_a_store_does_over_tls_all_that_it_does(site: Site) -> None:
    for case in (CASES[1], CASES[-1], *HINT_CASES[:2]):
        await check(case, lambda namespace: connect(site.url(), namespace))


async def test_a_server_that_asks_for_no_certificate_is_given_none(tmp_path: Path) -> None:
    authority = Authority()
    (tmp_path / "ca.crt").write_bytes(authority.certificate)
    with redis_with_tls(authority.issue("127.0.0.1")) as port:
        own = Site("redis", port, tmp_path).url("127.0.0.1", client=None)
        await check(CASES[1], lambda namespace: connect(own, namespace))


REFUSED: Final[dict[str, tuple[list[str], dict[str, Any], str]]] = {
    "another host": (["127.0.0.1"], {}, "is for another host: use the name in the URL"),
    "an unknown authority": (
        [],
        {"ca": "other-ca"},
        "nobody known vouches.* (ssl_ca_certs|sslrootcert)= in the URL",
    ),
    "no client certificate": ([], {"client": None}, "client certificate.*(ssl_certfile|sslcert)"),
    "a stranger's certificate": ([], {"client": "stranger"}, "client certificate: check (ssl_certfile|sslcert)="),
}


@pytest.mark.parametrize("who", REFUSED)
async def test_who_is_not_who_he_should_be_is_refused(site: Site, who: str) -> None:
    host, others, message = REFUSED[who]
    store = connect(site.url(*host, **others), "n")
    await refused(store.identify, message)
    await refused(lambda: anext(store.watch()), message)
    await store.close()


async def refused(call: Callable[[], Awaitable[Any]], message: str) -> None:
    """It is a matter for somebody to act upon. A server that refuses a client may hang up before that is read."""
    for _ in range(20):
        try:
            await call()
        except RemoteUnavailable:
            continue
        except ConfigurationError as error:
            with pytest.raises(ConfigurationError, match=message):
                raise error from None
            return
        break
    pytest.fail("it was not refused")


async def test_an_old_certificate_is_refused(tmp_path: Path) -> None:
    authority = Authority()
    (tmp_path / "ca.crt").write_bytes(authority.certificate)
    with redis_with_tls(authority.issue("localhost", days=-1)) as port:
        store = connect(Site("redis", port, tmp_path).url(client=None), "n")
        await refused(store.identify, "expired.*renew it")
        await store.close()


def test_a_store_says_so_works_on_and_heals(site: Site, opened: Open, tmp_path: Path) -> None:
    known = tmp_path / "known.crt"
    known.write_bytes((site.folder / "other-ca.crt").read_bytes())
    remote = site.url().replace(urlencode({"": str(site.folder / "ca.crt")})[1:], urlencode({"": str(known)})[1:])
    one = opened("a", remote)
    one.session("s").add_message("user", "written before")
    eventually(lambda: one.status().state == "blocked")
    assert "nobody known vouches for the server" in str(one.status().last_error)
    known.write_bytes((site.folder / "ca.crt").read_bytes())
    other = opened("b", site.url())
    settle(one, other)
    assert contents(other.session("s")) == ["written before"]
    eventually(lambda: one.status().state == "online")


@pytest.mark.parametrize("backend", SERVERS)
@pytest.mark.parametrize("answer", [b"N", b"", b"-ERR\r\n", b"E" + bytes(3) + b"\x08\0\0\0\0"])
async def test_nothing_goes_in_the_clear_instead(backend: str, answer: bytes, tmp_path: Path) -> None:
    """Whatever somebody in between answers."""
    (tmp_path / "ca.crt").write_bytes(Authority().certificate)
    options = {OPTIONS[backend][0]: str(tmp_path / "ca.crt")}
    async with answering(answer) as (port, told):
        store = connect(url(backend, "127.0.0.1", port, options, "hunter2"), "namespace")
        for call in (store.identify(), anext(store.watch())):
            with pytest.raises((ConfigurationError, RemoteUnavailable)):
                await call
        await store.close()
    assert told
    for said in filter(None, told):
        assert said == SSL_REQUEST if backend == "postgres" else said[:2] == b"\x16\x03" or said[:1] == b"\x15"
        assert b"hunter2" not in said


async def test_a_file_that_is_not_there_is_for_somebody_to_bring(site: Site) -> None:
    if site.backend == "redis":  # where it is found when the store is made, or when it connects
        with pytest.raises(ConfigurationError, match="No such file"):
            connect(site.url(ca="none"), "n")
        shutil.copy(site.folder / "ca.crt", site.folder / "gone.crt")
        store = connect(site.url(ca="gone"), "n")
        shutil.move(site.folder / "gone.crt", site.folder / "moved.crt")
        with pytest.raises(ConfigurationError, match=r"No such file.*the files of ssl_ca_certs"):
            await store.identify()
        await store.close()
        return
    for options, name in (({"ca": "none"}, "sslrootcert"), ({"client": "none"}, "sslcert")):
        store = connect(site.url(**options), "n")
        for call in (store.identify(), anext(store.watch())):
            with pytest.raises(ConfigurationError, match=f"{name}=/.*none.crt in the URL can't be read: No such file"):
                await call
        await store.close()
