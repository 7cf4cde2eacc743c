"""What the exit code of a command means, and which one an error gets, or a store by how it stands.

Every command that tells how a store stands (`status`, `sync`, `verify`, `quarantine`) goes by `standing`, so that one
code means one thing. The texts of `--help` say the same in `EXIT_CODES`.
"""

from __future__ import annotations

from enum import IntEnum

from localfirst.errors import LocalFirstError, RemoteLost, SyncTimeout


class Exit(IntEnum):
    """Exit codes; the same for every command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_SYNCED = 3
    NO_SESSION = 4
    QUARANTINED = 5
    DIFFERENT = 6


EXIT_CODES = (
    "Exit codes: 0 it went well, 1 it failed, 2 wrong usage, 3 not in sync or not everything synced, 4 no such session,"
    " 5 something is in quarantine and no other code holds, 6 here and central store differ."
)


class NoSession(LocalFirstError):
    """There is no such session in this store."""


def exit_code(error: LocalFirstError) -> Exit:
    """The exit code for a command that an error ended.

    >>> exit_code(SyncTimeout())
    <Exit.NOT_SYNCED: 3>
    """
    if isinstance(error, (SyncTimeout, RemoteLost)):
        return Exit.NOT_SYNCED
    return Exit.NO_SESSION if isinstance(error, NoSession) else Exit.FAILED


def standing(*, quarantined: int, wrong: Exit = Exit.OK) -> Exit:
    """The exit code for how a store stands: what is wrong beside the sessions that are in quarantine, else whether
    there are any.

    >>> standing(quarantined=1), standing(quarantined=1, wrong=Exit.NOT_SYNCED), standing(quarantined=0)
    (<Exit.QUARANTINED: 5>, <Exit.NOT_SYNCED: 3>, <Exit.OK: 0>)
    """
    return Exit.QUARANTINED if quarantined and wrong is Exit.OK else wrong
