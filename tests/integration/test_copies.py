"""Data directories that were really copied, and restored from older copies.

Everything is kept: the store that finds itself to be a copy goes on under a new replica id.
"""

from __future__ import annotations

import pytest

from tests.faults.devices import Begin


def test_a_copied_directory_is_used_beside_the_original(remote_url: str, begin: Begin) -> None:
    devices = begin(remote_url)
    devices.write("a", "before the copy")
    devices.sync("a", "b")
    devices.copy("a", "twin")
    for name in ("a", "twin", "b"):
        devices.write(name, "after the copy")
    devices.sync("a", "twin", "b")
    devices.check("a", "twin", "b")
    assert devices["a"].status().replica_id != devices["twin"].status().replica_id


def test_a_directory_is_copied_with_changes_that_were_never_sent(remote_url: str, begin: Begin) -> None:
    """Both send them: they must be there once."""
    devices = begin(remote_url)
    devices.write("a", "before the copy")
    devices.sync("a", "b")
    devices.write_offline("a", "pending when it was copied")
    devices.copy("a", "twin")
    for name in ("a", "twin"):
        devices.write_offline(name, "offline after the copy")
    devices.sync("a", "twin", "b")
    devices.check("a", "twin", "b")


def test_original_and_copy_sync_by_turns(remote_url: str, begin: Begin) -> None:
    """The copy first: now the original is the one that finds its counters taken."""
    devices = begin(remote_url)
    devices.write("a", "before the copy")
    devices.sync("a", "b")
    devices.copy("a", "twin")
    for turn in range(3):
        for name in ("twin", "a"):
            devices.write(name, f"in turn {turn}")
            devices.sync(name)
            devices.close(name)
    devices.sync("a", "twin", "b")
    devices.check("a", "twin", "b")


@pytest.mark.parametrize("offline", [True, False], ids=["writes offline first", "writes"])
def test_a_directory_is_restored_from_an_older_copy(remote_url: str, begin: Begin, offline: bool) -> None:
    devices = begin(remote_url)
    devices.write("a", "in the backup")
    devices.sync("a", "b")
    devices.copy("a", "backup")
    devices.write("a", "after the backup")
    devices.sync("a", "b")
    devices.copy("backup", "a")
    if offline:
        devices.write_offline("a", "after it was restored")
    else:
        devices.write("a", "after it was restored")
    devices.sync("a", "b")
    devices.check("a", "b")


def test_a_restored_directory_only_reads(remote_url: str, begin: Begin) -> None:
    devices = begin(remote_url)
    devices.write("a", "in the backup")
    devices.sync("a", "b")
    devices.copy("a", "backup")
    devices.write("a", "after the backup")
    devices.sync("a", "b")
    devices.copy("backup", "a")
    devices.sync("a", "b")
    devices.check("a", "b")


def test_a_restored_directory_writes_more_than_was_written_after_the_backup(remote_url: str, begin: Begin) -> None:
    """Its counters then go beyond those that the central store has: nothing but the content tells that they differ."""
    devices = begin(remote_url)
    devices.write("a", "in the backup")
    devices.sync("a", "b")
    devices.copy("a", "backup")
    devices.write("a", "after the backup", times=1)
    devices.sync("a", "b")
    devices.copy("backup", "a")
    for time in ("once", "twice", "three times"):
        devices.write_offline("a", f"after it was restored, {time}")
    devices.sync("a", "b")
    devices.check("a", "b")
