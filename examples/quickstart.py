"""Write to a session, read it back, and find it on another machine.

    python examples/quickstart.py

Everything runs in a temporary directory; set LOCALFIRST_REMOTE to redis://... or postgresql://... to use a server.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import localfirst


def main() -> None:
    """Two stores with one central store, as on two machines."""
    with tempfile.TemporaryDirectory() as scratch:
        remote = os.environ.get("LOCALFIRST_REMOTE") or (Path(scratch) / "central").as_uri()

        # A store is a directory. Opening one contacts nobody: a worker thread does that, in the background.
        with localfirst.open(Path(scratch) / "here", remote=remote, namespace="quickstart") as store:
            session = store.session("user-123")

            # Calls work on the local disk and take microseconds, whether the server can be reached or not.
            session.add_message("user", "Which trees grow fast in clay soil?")
            session.add_message("assistant", "Willow, alder and poplar; alder also puts up with wet feet.")
            session.set("language", "en")
            session.increment("turns")
            print("here:    ", [message["role"] for message in session.get_messages()], session.metadata())

            # The worker sends it within moments. Wait for that only if something depends on it.
            session.flush(timeout=10)
            print("pending: ", session.pending)

        # Another machine: another directory, the same central store. The first read brings the session here.
        with localfirst.open(Path(scratch) / "there", remote=remote, namespace="quickstart") as store:
            session = store.session("user-123")
            print("there:   ", session.get_messages()[-1]["content"])


if __name__ == "__main__":
    main()
