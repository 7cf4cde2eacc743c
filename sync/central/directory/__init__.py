"""The central store in a directory: on the same engine as the local side."""

from sync.central.directory.store import DirectoryStore

__all__ = ["DirectoryStore"]
