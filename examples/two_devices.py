"""Two devices write to one session while apart, and agree when they meet again. No write is lost.

    python examples/two_devices.py

Stores with worker="none" sync in flush() and refresh() only, which makes it visible when they meet. Ordinarily a
background worker does both all the time.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from pathlib import Path

import localfirst


def main() -> None:
    """A phone and a laptop, apart and together."""
    with tempfile.TemporaryDirectory() as scratch:
        remote = os.environ.get("LOCALFIRST_REMOTE") or (Path(scratch) / "central").as_uri()
        session_id = f"shopping-{uuid.uuid4().hex[:8]}"
        with (
            localfirst.open(Path(scratch) / "phone", remote=remote, worker="none") as phones,
            localfirst.open(Path(scratch) / "laptop", remote=remote, worker="none") as laptops,
        ):
            phone, laptop = phones.session(session_id), laptops.session(session_id)

            # Apart: each sees what it wrote itself.
            phone.add_message("user", "We need rice and two lemons.")
            phone.set("tags", ["food"], merge="union")
            phone.set("shop", "market")
            phone.increment("notes")

            laptop.add_message("user", "Printer paper, too.")
            laptop.set("tags", ["office"], merge="union")
            laptop.set("shop", "department store")
            laptop.increment("notes")
            print("apart:    ", len(phone), "item on the phone,", len(laptop), "on the laptop")

            # They meet: both send, then both fetch.
            phones.flush(timeout=10)
            laptops.flush(timeout=10)
            phones.refresh(timeout=10)
            laptops.refresh(timeout=10)

            for name, session in (("phone", phone), ("laptop", laptop)):
                print(f"{name + ':':10}", [message["content"] for message in session.get_messages()])
                print(" " * 10, session.metadata())

            # "shop" was set on both without knowledge of each other. The later write stands, by the devices' clocks;
            # both devices agree on it, and remember what was set aside.
            for conflict in phone.conflicts():
                print(f"conflict:  {conflict.key}: {conflict.current} and {conflict.incoming} -> {conflict.winner}")
            print("equal:    ", phone.export() == laptop.export())


if __name__ == "__main__":
    main()
