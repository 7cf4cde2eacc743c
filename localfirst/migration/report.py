"""What came of an import: plain data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MigratedSession:
    """One session. Rows that stand on several branches count on each: found = imported + skipped + damaged, if there
    is no problem."""

    session_id: str
    found: int
    """Rows that the source has of it."""
    imported: int
    """Those that were written by this run; of a dry run, that would have been."""
    skipped: int
    """Those that earlier runs imported."""
    damaged: int
    """Those that hold no item. They are left out, as their owner leaves them out."""
    notes: tuple[str, ...] = ()
    """The first 100 damaged rows, and what else does not come along."""
    branches: tuple[str, ...] = ("main",)
    problem: str | None = None
    """Why it was left alone, or not imported to its end."""
    verified: bool | None = None
    """Whether what was read back is what the source has; None: nobody looked."""


@dataclass(frozen=True)
class MigrateReport:
    """All sessions of a source that were asked for.

    >>> report = MigrateReport("old.db", False, (MigratedSession("user-123", 2, 1, 0, 1, verified=True),))
    >>> report.ok, report.imported, report.damaged, report.verified
    (True, 1, 1, True)
    """

    source: str
    """Without credentials."""
    dry_run: bool
    sessions: tuple[MigratedSession, ...]

    @property
    def found(self) -> int:
        """Rows that the source has."""
        return sum(session.found for session in self.sessions)

    @property
    def imported(self) -> int:
        """Rows that were imported by this run."""
        return sum(session.imported for session in self.sessions)

    @property
    def skipped(self) -> int:
        """Rows that were here from earlier runs."""
        return sum(session.skipped for session in self.sessions)

    @property
    def damaged(self) -> int:
        """Rows that hold no item."""
        return sum(session.damaged for session in self.sessions)

    @property
    def problems(self) -> list[MigratedSession]:
        """The sessions that were not imported to their end, or are not what the source has."""
        return [session for session in self.sessions if session.problem is not None]

    @property
    def verified(self) -> bool | None:
        """Whether all that was looked at is what the source has; None: nobody looked."""
        looks = [session.verified for session in self.sessions if session.verified is not None]
        return all(looks) if looks else None

    @property
    def ok(self) -> bool:
        """Whether there was no problem. Damaged rows are none."""
        return not self.problems
