"""Replicate every few minutes instead of at once: for metered links, or to let a battery sleep.

    python examples/periodic_replicator.py                  # every 2 seconds, to watch it
    python examples/periodic_replicator.py --interval 300   # every 5 minutes: only closing the store sends the rest

With sync_interval=N the first write after a quiet time goes at once; what follows waits until N seconds have passed
since, and goes up together. Closing the store sends what is left. Meanwhile everything is safe on the local disk.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import uuid
from pathlib import Path

import localfirst

WATCH_SECONDS = 5.0
"""How long this watches at most, before it closes the store."""


def main() -> None:
    """Write a diary, and look at what has reached the central store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interval", type=float, default=2.0, metavar="SECONDS", help="of replication (default: 2)")
    interval = parser.parse_args().interval
    with tempfile.TemporaryDirectory() as scratch:
        remote = os.environ.get("LOCALFIRST_REMOTE") or (Path(scratch) / "central").as_uri()
        # A second replica, which fetches only when it is asked to, shows what the central store has.
        with localfirst.open(Path(scratch) / "observer", remote=remote, worker="none") as observer:
            replicate(Path(scratch) / "store", remote, interval, observer)


def replicate(path: Path, remote: str, interval: float, observer: localfirst.Store) -> None:
    """Write faster than replication runs."""
    session_id = f"diary-{uuid.uuid4().hex[:8]}"
    seen = observer.session(session_id)

    def report(moment: str) -> None:
        observer.refresh(timeout=10)
        print(f"{moment:24} {session.pending} pending here, {len(seen)} in the central store")

    with localfirst.open(path, remote=remote, sync_interval=interval) as store:
        session = store.session(session_id)
        session.add_message("user", "Departure.")
        store.flush(timeout=10)
        report("the first, at once:")

        for hour in range(1, 6):
            session.add_message("user", f"Hour {hour}: all well.")
        report("five more:")

        deadline = time.monotonic() + min(interval * 2, WATCH_SECONDS)
        while session.pending and time.monotonic() < deadline:
            time.sleep(0.1)
        report("after the interval:" if not session.pending else "still within it:")

        session.add_message("user", "Arrival.")
        report("one more:")

    observer.refresh(timeout=10)
    print(f"{'closed:':24} {len(seen)} in the central store")


if __name__ == "__main__":
    main()
