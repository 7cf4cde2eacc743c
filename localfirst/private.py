"""Directories and files for their owner alone, whatever the umask; those that others could change are refused."""

from __future__ import annotations

import os
import stat
from itertools import chain, takewhile
from pathlib import Path

from localfirst.errors import ConfigurationError

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def make_private(directory: Path) -> None:
    """Make a directory, and those above it that are missing, with mode 0700. One that is there is checked, see
    `check_private`. Raises `OSError`."""
    missing = list(takewhile(_is_missing, chain([directory], directory.parents)))
    for each in reversed(missing):
        try:
            each.mkdir(mode=0o700)
        except FileExistsError:  # Another process was faster; whose?
            check_private(each)
        else:
            each.chmod(0o700)
    check_private(directory)


def _is_missing(directory: Path) -> bool:
    return not os.path.lexists(directory)


def check_private(directory: Path) -> None:
    """Raise `ConfigurationError` for a directory that somebody else can put files into, or could exchange: a symbolic
    link, one that belongs to another user, one that others can write to. One that is not there is fine."""
    try:
        found = directory.lstat()
    except OSError:
        return  # Whoever uses it is told.
    if stat.S_ISLNK(found.st_mode):
        raise ConfigurationError(
            f"{directory} is a symbolic link, which may lead elsewhere tomorrow: pass the path that it leads to"
        )
    if not stat.S_ISDIR(found.st_mode) or not hasattr(os, "geteuid"):
        return
    if found.st_uid != os.geteuid():
        raise ConfigurationError(
            f"{directory} belongs to user {found.st_uid}, and this process has the permissions of user {os.geteuid()}:"
            " run it as the owner, or pass another path"
        )
    if found.st_mode & _OTHERS_WRITE:
        raise ConfigurationError(
            f"others can write to {directory} (mode {stat.S_IMODE(found.st_mode):04o}): `chmod go-w` it, or pass a path"
            " inside it, which is made for the owner alone"
        )


def keep_private(file: Path) -> None:
    """Let nobody else read or write a file that is there. Raises `ConfigurationError` if it is not the owner's alone to
    say, `OSError` if it can't be done. The file is not opened."""
    found = file.lstat()
    if stat.S_ISLNK(found.st_mode):
        raise ConfigurationError(f"{file} is a symbolic link where a file of the store belongs: put the file there")
    if hasattr(os, "geteuid") and found.st_uid != os.geteuid():
        raise ConfigurationError(
            f"{file} belongs to user {found.st_uid}, and this process has the permissions of user {os.geteuid()}:"
            " run it as the owner"
        )
    mode = stat.S_IMODE(found.st_mode)
    if stat.S_ISREG(found.st_mode) and mode & ~0o600:
        file.chmod(mode & 0o600)


def open_private(file: Path, flags: int) -> int:
    """A descriptor of a file that only its owner can read or write; made if `flags` say so. Raises `OSError`."""
    number = os.open(file, flags | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0), 0o600)
    if hasattr(os, "fchmod"):
        try:
            os.fchmod(number, 0o600)
        except OSError:
            os.close(number)
            raise
    return number
