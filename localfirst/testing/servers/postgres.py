"""A Postgres server of our own; started as root it runs as an unprivileged account, as it insists on."""

from __future__ import annotations

import ctypes
import signal
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

from localfirst.testing.servers.account import account_for_postgres, reachable_install
from localfirst.testing.servers.binaries import postgres_bin_dir
from localfirst.testing.servers.process import LOOPBACK, ServerError, ServerProcess
from localfirst.testing.servers.watchdog import kill_tree

_USER = "postgres"
_PROBE_SECONDS = 1.0
_IPC_RMID = 0
_SSL_REQUEST = bytes.fromhex("0000000804d2162f")  # the one message every Postgres answers before login


class PostgresServer(ServerProcess):
    """Postgres on loopback; `fsync=True` makes it wait for the disk as one in production would. `settings` go into its
    configuration; paths in them begin in its `data` directory."""

    title: ClassVar[str] = "Postgres"
    # SIGTERM would wait for every client to leave first; pools never do.
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT

    def __init__(
        self,
        *,
        password: str | None = None,
        fsync: bool = False,
        max_connections: int = 200,
        settings: Mapping[str, str] | None = None,
        startup_seconds: float = 60.0,
    ) -> None:
        super().__init__(account=account_for_postgres(), startup_seconds=startup_seconds)
        self._password = password
        self._fsync = fsync
        self._max_connections = max_connections
        self._more = dict(settings or {})
        self._bin_dir = reachable_install(postgres_bin_dir(), self._account)

    @property
    def url(self) -> str:
        credentials = f"{_USER}:{quote(self._password, safe='')}" if self._password else _USER
        return f"postgresql://{credentials}@{LOOPBACK}:{self.port}/postgres"

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    def _command(self) -> list[str]:
        arguments = [part for name, value in self._settings().items() for part in ("-c", f"{name}={value}")]
        return [str(self._bin_dir / "postgres"), "-D", str(self._data), *arguments]

    def _settings(self) -> dict[str, str]:
        return {
            "listen_addresses": LOOPBACK,
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": str(self._max_connections),
            # Losing power is not what tests simulate, and a killed server keeps what the kernel has.
            "fsync": "on" if self._fsync else "off",
            # In the data directory, so that a killed server leaves nothing behind in shared memory.
            "dynamic_shared_memory_type": "mmap",
            **self._more,
        }

    def kill(self) -> None:
        segment = self._shared_memory()
        super().kill()
        if segment is not None:
            # The kernel has few of these, and only a restart would have taken it over.
            ctypes.CDLL(None).shmctl(segment, _IPC_RMID, None)

    def _shared_memory(self) -> int | None:
        """The id of the small segment by which the running server locks its data directory."""
        if not self.running:
            return None
        lines = self._status_lines()
        own = len(lines) > 6 and lines[0].strip() == str(self.pid)
        return int(lines[6].split()[1]) if own and lines[6].strip() else None

    def _prepare(self) -> None:
        arguments = ["-D", str(self._data), "-U", _USER, "-E", "UTF8", "--locale=C", "--no-sync"]
        if self._password:
            file = self.write("password", f"{self._password}\n".encode())
            arguments += ["--auth=scram-sha-256", f"--pwfile={file}"]
        else:
            arguments += ["--auth=trust"]
        status = self._run_initdb(arguments)
        if status != 0:
            tail = self._log_tail()
            self.close()  # half a data directory must not pass for one at the next start
            raise ServerError(f"initdb exited with {status}\n{tail}")

    def _run_initdb(self, arguments: list[str]) -> int:
        with self._log.open("ab") as log:
            initdb = self._spawn([str(self._bin_dir / "initdb"), *arguments], log.fileno())
        try:
            return initdb.wait(self._startup_seconds)
        except subprocess.TimeoutExpired:
            kill_tree(initdb.pid)
            return initdb.wait()

    def _is_ready(self, pid: int) -> bool:
        lines = self._status_lines()
        # The file says whose server it is, and its eighth line how far the start has come.
        if len(lines) < 8 or lines[0].strip() != str(pid) or lines[7].strip() != "ready":
            return False
        return self._answers()

    def _status_lines(self) -> list[str]:
        try:
            return (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []

    def _answers(self) -> bool:
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=_PROBE_SECONDS) as connection:
                connection.sendall(_SSL_REQUEST)
                return connection.recv(1) in (b"N", b"S")
        except OSError:
            return False
