"""The end of a program that closes nothing: what it wrote is sent, although executors take nothing any more by then."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.integration.stores import Open

PROGRAM = """
import atexit, socket, sys
from localfirst.integrations.pyai import SQLiteSession

known, look_up = [], socket.getaddrinfo

def getaddrinfo(*arguments, **keywords):
    if not known:
        raise socket.gaierror("the server has no name yet")
    return look_up(*arguments, **keywords)

socket.getaddrinfo = getaddrinfo
atexit.register(known.append, True)

path, remote, namespace = sys.argv[1:]
SQLiteSession(path, "user-123", remote=remote, namespace=namespace).add_message("user", "Hello")
"""


def test_a_server_is_found_by_its_name_as_the_program_ends(
    remote_url: str, opened: Open, tmp_path: Path, namespace: str
) -> None:
    by_name = remote_url.replace("127.0.0.1", "localhost")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "a"), by_name, namespace],
        check=True,
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr
    elsewhere = opened("b", remote_url).session("user-123")
    elsewhere.refresh(timeout=10)
    assert [message["content"] for message in elsewhere.get_messages()] == ["Hello"]
