"""One server process of our own: started, awaited, signalled, and never left behind.

What Redis and Postgres share: a loopback port and a temporary directory that last until `close`, however
often the server is stopped, killed or restarted in between.
"""

from __future__ import annotations

import atexit
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from localfirst.testing.servers.account import Account, reachable_directory
from localfirst.testing.servers.watchdog import Watchdog, freeze_tree, kill_tree, thaw_tree, wait_until_gone

if TYPE_CHECKING:
    from typing_extensions import Self

LOOPBACK = "127.0.0.1"

# Below the range the kernel hands out to outgoing connections: a client that retries while the server is
# down could otherwise be given the server's own port, and hold it.
_PORTS = range(15_000, 30_000)
_PORT_ATTEMPTS = 10
_POLL_SECONDS = 0.01
_STOP_SECONDS = 20.0
_GONE_SECONDS = 10.0
_LOG_TAIL_BYTES = 3_000


class ServerError(RuntimeError):
    """A test server did not do what it was told."""


class ServerProcess(ABC):
    """A server started by us; as a context manager it starts on entry and is closed on exit."""

    title: ClassVar[str]
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, *, account: Account | None = None, startup_seconds: float = 30.0) -> None:
        self.port = free_port()
        self._account = account
        self._startup_seconds = startup_seconds
        self._directory: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: Watchdog | None = None
        self._log_start = 0
        self._was_ready = False
        self._owner = os.getpid()

    @property
    @abstractmethod
    def url(self) -> str:
        """The address for clients; it stays the same once the server was started."""

    @abstractmethod
    def _command(self) -> list[str]:
        """The command line, for the present port."""

    @abstractmethod
    def _is_ready(self, pid: int) -> bool:
        """Whether the process `pid`, and not some other server on this port, answers clients."""

    def _prepare(self) -> None:  # noqa: B027 - a hook, most servers have nothing to prepare
        """Fill the fresh directory, before the first start."""

    @property
    def running(self) -> bool:
        """Whether the process is alive (a paused one is)."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        if self._process is None or not self.running:
            raise ServerError(f"{self.title} is not running")
        return self._process.pid

    @property
    def directory(self) -> Path:
        """Where the server keeps its data and its log, until it is closed."""
        if self._directory is None:
            self._directory = self._make_directory()
            atexit.register(self.close)
            self._prepare()
        return self._directory

    def write(self, name: str, data: bytes) -> Path:
        """A file in its directory that only the server, and who started it, can read."""
        file = self.directory / name
        file.touch(mode=0o600)
        file.write_bytes(data)
        if self._account is not None:
            os.chown(file, self._account.uid, self._account.gid)
        return file

    def start(self) -> None:
        """Start the server and wait until it answers; a running server is left as it is."""
        if self.running:
            return
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            try:
                self._launch()
            except ServerError as error:
                # Clients may already hold the address once the server has been up: only then is it fixed.
                if self._was_ready or attempt == _PORT_ATTEMPTS or "in use" not in str(error):
                    raise
                self.port = free_port()
            else:
                return

    def stop(self) -> None:
        """Shut the server down in an orderly way, its data safe."""
        if self._process is not None and self.running:
            self._stop(self._process)
        self._forget()

    def _stop(self, process: subprocess.Popen[bytes]) -> None:
        thaw_tree(process.pid)  # a paused server would not hear of it
        process.send_signal(self.stop_signal)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            tail = self._log_tail()
            self.kill()
            raise ServerError(f"{self.title} did not stop within {_STOP_SECONDS:.0f} s\n{tail}") from None

    def kill(self) -> None:
        """SIGKILL the server and its children at once, as a crash would; its data stay as they were."""
        if self._process is not None and self.running:
            doomed = kill_tree(self._process.pid)
            self._process.wait()
            left = wait_until_gone(doomed, _GONE_SECONDS)
            if left:
                raise ServerError(f"{self.title}: processes {left} survived SIGKILL")
        self._forget()

    def pause(self) -> None:
        """SIGSTOP the server: connections stay open, and nobody answers on them."""
        freeze_tree(self.pid)

    def resume(self) -> None:
        """SIGCONT a paused server."""
        thaw_tree(self.pid)

    def restart(self) -> None:
        """Stop the server if it runs, and start it on the same port with the same data."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Kill the server and remove its data; the object can be started again, empty."""
        if self._owner != os.getpid():
            return  # a forked child runs our exit handlers too, but the server is its parent's
        atexit.unregister(self.close)
        self.kill()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _launch(self) -> None:
        self._forget()
        directory = self.directory
        with self._log.open("ab") as log:
            self._log_start = log.tell()
            self._process = self._spawn(self._command(), log.fileno())
        self._watchdog = Watchdog(self._process.pid, directory)
        try:
            self._await_ready(self._process)
            self._was_ready = True
        except BaseException:
            self.kill()
            raise

    def _spawn(self, command: list[str], output: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            cwd=self.directory,
            env=os.environ | {"LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **(self._account.popen_options() if self._account else {}),
        )

    def _await_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + self._startup_seconds
        while not self._is_ready(process.pid):
            if process.poll() is not None:
                raise ServerError(f"{self.title} exited with {process.returncode}\n{self._log_tail()}")
            if time.monotonic() > deadline:
                waited = f"{self._startup_seconds:.0f} s"
                raise ServerError(f"{self.title} was not ready within {waited}\n{self._log_tail()}")
            time.sleep(_POLL_SECONDS)

    def _forget(self) -> None:
        if self._watchdog is not None:
            self._watchdog.dismiss()
        self._watchdog = self._process = None

    def _make_directory(self) -> Path:
        prefix = f"localfirst-{self.title.lower()}-"
        directory = Path(tempfile.mkdtemp(prefix=prefix, dir=reachable_directory(self._account)))
        if self._account is not None:
            os.chown(directory, self._account.uid, self._account.gid)
        return directory

    @property
    def _log(self) -> Path:
        return self.directory / "server.log"

    def _log_tail(self) -> str:
        with self._log.open("rb") as log:
            log.seek(max(self._log_start, self._log.stat().st_size - _LOG_TAIL_BYTES))
            return f"Its log ends:\n{log.read().decode(errors='replace')}"


def free_port() -> int:
    """A loopback port that nobody listens on at the moment."""
    for port in random.sample(_PORTS, 200):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return port
    raise ServerError(f"no free port among {_PORTS.start}..{_PORTS.stop}")
