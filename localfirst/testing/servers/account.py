"""Running a server as somebody else: Postgres refuses to run as root, which containers often are.

Finds an account to run as, a temporary directory it can reach, and when it cannot reach the installed
binaries (a virtual environment below a private home directory) puts a copy where it can.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

_ACCOUNT_NAMES = ("postgres", "nobody")
_SHARED_TEMPORARY = ("/tmp", "/var/tmp", "/dev/shm")


class PopenOptions(TypedDict, total=False):
    """The part of `subprocess.Popen` that changes the user."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True)
class Account:
    """A system account without privileges."""

    name: str
    uid: int
    gid: int

    def popen_options(self) -> PopenOptions:
        """What makes `subprocess.Popen` run a program as this account."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


def account_for_postgres() -> Account | None:
    """The account to run Postgres as; none when we ourselves will do."""
    if os.geteuid() != 0:
        return None
    for name in _ACCOUNT_NAMES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid)
    raise LookupError(f"Postgres does not run as root and none of the accounts {_ACCOUNT_NAMES} exists")


def reachable_directory(account: Account | None) -> Path:
    """A directory for temporary files that the account (we, when none) can get to."""
    preferred = Path(tempfile.gettempdir())
    if account is None:
        return preferred
    for directory in (preferred, *map(Path, _SHARED_TEMPORARY)):
        if directory.is_dir() and all(_may_pass(step) for step in (directory, *directory.parents)):
            return directory
    raise LookupError(f"{account.name} can reach no temporary directory")


def _may_pass(directory: Path) -> bool:
    return bool(directory.stat().st_mode & 0o001)


def reachable_install(bin_dir: Path, account: Account | None) -> Path:
    """`bin_dir` itself when the account can run what is in it, else the same directory of a copy."""
    if account is None or _can_run(bin_dir / "initdb", account):
        return bin_dir
    target = reachable_directory(account) / _copy_name(bin_dir)
    if not target.exists():
        _copy_install(bin_dir, target)
    status = target.stat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise PermissionError(f"{target} is not only ours to write, so programs in it cannot be trusted")
    return target / bin_dir.relative_to(_root(bin_dir))


def _root(bin_dir: Path) -> Path:
    return bin_dir.parents[2]


def _can_run(program: Path, account: Account) -> bool:
    try:
        done = subprocess.run(
            [program, "--version"], capture_output=True, cwd="/", check=False, **account.popen_options()
        )
    except PermissionError:
        return False
    return done.returncode == 0


def _copy_name(bin_dir: Path) -> str:
    stamp = (bin_dir / "postgres").stat()
    identity = f"{bin_dir}:{stamp.st_mtime_ns}:{stamp.st_size}"
    digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
    return f"localfirst-pginstall-{os.geteuid()}-{digest}"


def _copy_install(bin_dir: Path, target: Path) -> None:
    """Copy the install and make it visible in one step, so that test workers cannot see half of it."""
    scratch = Path(tempfile.mkdtemp(prefix=target.name, dir=target.parent))
    try:
        for part in _install_parts(bin_dir):
            shutil.copytree(part, scratch / part.relative_to(_root(bin_dir)), symlinks=True)
        _open_to_all(scratch)
        scratch.rename(target)
    except OSError:
        shutil.rmtree(scratch, ignore_errors=True)
        if not target.exists():  # otherwise another worker was faster, and its copy is as good
            raise


def _install_parts(bin_dir: Path) -> list[Path]:
    """The install and the shared libraries that a wheel keeps beside it, found by relative paths."""
    package = bin_dir.parents[1]
    libraries = (package.with_name(f"{package.name}.libs"), package / ".dylibs")
    return [bin_dir.parent, *(part for part in libraries if part.is_dir())]


def _open_to_all(tree: Path) -> None:
    for entry in (tree, *tree.rglob("*")):
        if not entry.is_symlink():
            mode = entry.stat().st_mode
            executable = 0o111 if entry.is_dir() or mode & 0o100 else 0
            entry.chmod((mode | 0o444 | executable) & ~0o022)
