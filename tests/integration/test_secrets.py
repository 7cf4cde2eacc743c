"""A password in an address is never shown: not in errors, tracebacks, logs, status, reprs, files, or by commands."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from typer.testing import CliRunner

import localfirst
from localfirst.cli.app import app
from localfirst.errors import ConfigurationError, LocalFirstError
from localfirst.secret import Url, given, shown
from localfirst.testing.servers import Server
from sync.central import connect, describe
from tests.conftest import OwnPostgres, OwnRedis
from tests.polling import eventually

CANARY = "c4nary-7b1d"
OURS = str(Path(localfirst.__file__).parent.parent)


def everything(error: BaseException | None) -> Iterator[str]:
    """What of an error may be shown: its text, the chain that Python prints, and arguments in frames of ours, as pytest
    and those who collect errors show them."""
    while error is not None:
        yield from (str(error), repr(error), *traceback.format_exception(error))
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        for frame in frames:
            if frame.f_code.co_filename.startswith((f"{OURS}/localfirst", f"{OURS}/sync")):
                names = inspect.getargvalues(frame)
                yield from (f"{name}={names.locals[name]!r}" for name in names.args)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def check(*told: object) -> None:
    for each in told:
        assert CANARY not in str(each)
        assert CANARY not in repr(each)


def failing(call: Callable[[], object]) -> BaseException:
    try:
        call()
    except Exception as error:
        check(*everything(error))
        return error
    pytest.fail("it did not fail")


def run(url: str, tmp_path: Path) -> list[object]:
    """All that a store does with an address, and all that it tells."""
    told: list[object] = []
    with localfirst.open(tmp_path / "store", remote=url, poll_interval=0.05) as store:
        session = store.session("s")
        session.add_message("user", "Hello")
        status = eventually(lambda: (found := store.status()).last_error and found)
        told += [status, repr(store), repr(session), vars(store)]
        assert store._link is not None
        told += [vars(store._link), vars(store._link.host)]
        for call in (lambda: store.flush(0.3), lambda: store.refresh(0.3), lambda: store.verify(0.3)):
            told.append(failing(call))
        told += [path.read_text("latin-1") for path in (tmp_path / "store").rglob("*") if path.is_file()]
    return told


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """All of it, also of libraries."""
    with caplog.at_level(logging.DEBUG):
        yield caplog


@pytest.fixture(params=["redis", "postgres"])
def server(request: pytest.FixtureRequest) -> Server:
    """One that wants a password."""
    make: OwnRedis | OwnPostgres = request.getfixturevalue(f"own_{request.param}")
    return make(password="right")


def commands(url: str, tmp_path: Path, **options: Any) -> list[str]:
    """What commands print, with a store to look at."""
    store = ["--store", str(tmp_path / "store")]
    told = []
    for command in (
        ["status"],
        ["status", "--json"],
        ["sync", "--once", "--timeout", "0.5"],
        ["verify", "--timeout", "0.5"],
    ):
        for how in ([], ["--remote", url]):
            found = CliRunner().invoke(app, [*command, *store, *how], env={} if how else {"LOCALFIRST_REMOTE": url})
            told += [found.output, found.stderr, *everything(found.exception)]
    return told


def imports(url: str, tmp_path: Path) -> None:
    """What is told of an address that nothing can be imported from."""
    with localfirst.open(tmp_path / "imported", remote="") as store:
        failing(lambda: localfirst.migrate(url, store))
        failing(lambda: asyncio.run(localfirst.amigrate(url, store)))
    found = CliRunner().invoke(app, ["import", url, "--store", str(tmp_path / "imported")])
    assert found.exit_code in (1, 2)
    check(found.output, found.stderr, *everything(found.exception))


def test_a_wrong_password(server: Server, tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    url = server.url.replace(":right@", f":{CANARY}@")
    assert CANARY in url
    check(*run(url, tmp_path))
    check(*commands(url, tmp_path))
    imports(url, tmp_path)
    check(log.text)


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{CANARY}@127.0.0.1:1/0",
        f"redis://127.0.0.1:1/0?password={CANARY}",
        f"rediss://me:{CANARY}@127.0.0.1:1",
        f"unix://me:{CANARY}@/nowhere/socket",
        f"unix:///nowhere/socket?password={CANARY}",
        f"postgresql://me:{CANARY}@127.0.0.1:1/db",
        f"postgresql://127.0.0.1:1/db?user=me&password={CANARY}",
        f"postgresql://me:{CANARY}@no-such-host.invalid/db",
    ],
)
def test_a_server_that_cannot_be_reached(url: str, tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    check(*run(url, tmp_path), describe(url))
    imports(url, tmp_path)
    check(log.text)


BAD = [
    f"redis://:{CANARY}/x@host",
    f"redis://:{CANARY}?x@host",
    f"redis://:{CANARY}#x@host",
    f"redis://:x/{CANARY}@host",
    f"redis://:{CANARY}",
    f"redis://:{CANARY}@host:port",
    f"redis://:{CANARY}@host/database",
    f"redis://:{CANARY}@host?socket_timeout=soon",
    f"redis://:{CANARY}@host?no_such_option=1",
    f"rediss://:{CANARY}@host?ssl_certfile=/nowhere",
    f"unix://:x/{CANARY}@/socket",
    f"redis+cluster://:{CANARY}@host",
    f"mysql://me:{CANARY}@host",
    f"me:{CANARY}@host",
    CANARY,
    f"postgresql://me:{CANARY}/x@host/db",
    f"postgresql://me:{CANARY}",
    f"postgresql://me:{CANARY}@host/db?notify=perhaps",
    f"postgresql://me:{CANARY}@[host/db",
    f"file://{CANARY}@host/directory",
]


@pytest.mark.parametrize("url", BAD)
def test_an_address_that_can_not_be_one(url: str, tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    failures = [
        failing(lambda: localfirst.open(tmp_path / "store", remote=url)),
        failing(lambda: connect(Url(url), "n")),
    ]
    assert all(isinstance(error, ConfigurationError) for error in failures)
    check(shown(url), repr(Url(url)))
    (tmp_path / "store").mkdir(exist_ok=True, mode=0o700)
    with localfirst.open(tmp_path / "store", remote=""):
        pass
    check(*commands(url, tmp_path))
    if "://" in url:  # Else it is a path.
        imports(url, tmp_path)
    check(log.text)


def test_commands_take_the_address_from_a_file(tmp_path: Path) -> None:
    """Or from the environment: a process's arguments are everybody's to see."""
    central = tmp_path / "central"
    (tmp_path / "remote").write_text(f"  {central.as_uri()}\n")
    with localfirst.open(tmp_path / "store", remote="") as store:
        store.session("s").add_message("user", "Hello")
    named = f"@{tmp_path / 'remote'}"
    command = ["sync", "--once", "--json", "--store", str(tmp_path / "store")]
    for how, environment in ((["--remote", named], {}), ([], {"LOCALFIRST_REMOTE": named})):
        found = CliRunner().invoke(app, [*command, *how], env=environment)
        assert found.exit_code == 0, found.output
        assert json.loads(found.stdout)["remote"] == central.as_uri()
        assert not found.stderr
    with localfirst.open(tmp_path / "peer", remote=named, worker="none") as peer:
        peer.refresh(20)
        assert len(peer.session("s")) == 1


@pytest.mark.parametrize("content", ["", "one two", "@other", None, b"\xff\xfe"])
def test_a_file_that_holds_no_address(tmp_path: Path, content: str | bytes | None) -> None:
    file = tmp_path / "remote"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigurationError, match=r"remote.* the URL of the central store"):
        given(f"@{file}")
    found = CliRunner().invoke(app, ["sync", "--once", "--remote", f"@{file}"])
    assert found.exit_code == 2


@pytest.mark.parametrize(
    ("how", "warned"),
    [
        (["--remote", f"redis://:{CANARY}@127.0.0.1:1"], True),
        (["--remote", f"postgresql://host/db?password={CANARY}"], True),
        (["--remote", "redis://127.0.0.1:1"], False),
        (["--remote", "redis://me@127.0.0.1:1"], False),
        ([], False),
    ],
)
def test_a_password_among_the_arguments_is_warned_about(tmp_path: Path, how: list[str], warned: bool) -> None:
    with localfirst.open(tmp_path / "store", remote=""):
        pass
    environment = {} if how else {"LOCALFIRST_REMOTE": f"redis://:{CANARY}@127.0.0.1:1"}
    found = CliRunner().invoke(app, ["status", "--store", str(tmp_path / "store"), *how], env=environment)
    assert ("can see the password in --remote" in found.stderr) == warned
    assert "127.0.0.1:1" in found.stdout or "host/db" in found.stdout
    check(found.output, found.stderr)


def test_a_process_shows_nothing(tmp_path: Path) -> None:
    """Neither in what it prints nor among its arguments, also with the debugging of asyncio on."""
    url = f"redis://:{CANARY}@127.0.0.1:1"
    with localfirst.open(tmp_path / "store", remote="") as store:
        store.session("s").add_message("user", "Hello")
    command = [sys.executable, "-X", "dev", "-m", "localfirst", "sync", "--store", str(tmp_path / "store")]
    environment = {**os.environ, "LOCALFIRST_REMOTE": url, "PYTHONASYNCIODEBUG": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        arguments = Path(f"/proc/{process.pid}/cmdline")
        check(arguments.read_text() if arguments.exists() else "")
        process.terminate()
        out, err = process.communicate(timeout=60)
    check((line + out).decode(), err.decode())
    assert b"pending" in line + out


def test_an_address_is_still_one() -> None:
    """All that libraries do with a string can be done with it."""
    url = Url(f"redis://me:{CANARY}@host:6379/1")
    assert urlsplit(url).password == CANARY
    assert url == f"redis://me:{CANARY}@host:6379/1"
    check(repr(url), repr([url]), f"{url!r}")


async def test_backends_show_nothing_of_themselves() -> None:
    for url in (f"redis://me:{CANARY}@127.0.0.1:1", f"postgresql://me:{CANARY}@127.0.0.1:1/db"):
        store = connect(Url(url), "n")
        with pytest.raises(LocalFirstError) as caught:
            await asyncio.wait_for(store.identify(), 20)
        check(*everything(caught.value), repr(store), repr(vars(store)))
        await store.close()


@pytest.mark.parametrize("key", [f"{CANARY} is a passphrase", f"{CANARY:x<32}".encode()])
def test_keys_are_shown_as_little(key: str | bytes, tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    (tmp_path / "store").write_text("in the way")
    check(*everything(failing(lambda: localfirst.open(tmp_path / "store", remote="", encryption_key=key))))
    with localfirst.open(tmp_path / "other", remote="redis://127.0.0.1:1", encryption_key=key) as store:
        store.session("s").set("k", 1)
        check(repr(store), vars(store), store.status(), *everything(failing(lambda: store.flush(0.3))))
    check(log.text)
