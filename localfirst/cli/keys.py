"""The keys with which commands open a store.

They come from a file or the environment, never from an argument: these are seen by everybody on the machine.
"""

from __future__ import annotations

import os
from pathlib import Path

from localfirst.errors import ConfigurationError
from localfirst.keys import KeyRing

_file: Path | None = None


def use_file(path: Path | None) -> None:
    """Take the keys from a file, for all that this process opens."""
    global _file  # noqa: PLW0603 - a command is a process
    _file = path


def key_ring() -> KeyRing | None:
    """The keys of this process, the newest first; None: there are none."""
    if _file is not None:
        return KeyRing(_lines(_read(_file), str(_file)))
    inherited = os.environ.get("LOCALFIRST_KEY")
    return KeyRing(_lines(inherited, "$LOCALFIRST_KEY")) if inherited else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigurationError(f"the key file can't be read: {error}") from error
    except UnicodeDecodeError:
        raise ConfigurationError(
            f"{path} is no key file: keys are lines of text, KeyRing.generate() makes one"
        ) from None


def _lines(text: str, where: str) -> list[str]:
    lines = [line.strip() for line in text.splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise ConfigurationError(f"there is no key in {where}: one a line, the newest first")
    return keys
